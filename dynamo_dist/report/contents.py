"""The numbers that a page shows, from the files of a folder, as one JSON object. Nothing is measured again."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dynamo_dist.commit import read_lines
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel
from dynamo_dist.population import Population

# Of the tables of every analysis those that its figures need.
TABLES = {
    "similarity": ("measures", "coordinates"),
    "stability": ("stability",),
    "averaging": ("averaging",),
    "landscape": ("landscape", "landscape_networks"),
    "semisupervised": ("semisupervised",),
    "fixed-points": ("points", "trajectories"),
    "memory": ("memory",),
    "theta-path": ("path", "bifurcations"),
    "trajectory": ("trajectory", "paths"),
    "reparameterize": ("copies",),
}
# Networks of a large population whose fixed points, trajectories and memory kernels, and whose curves, are on the page.
DETAILED, CURVES = 200, 2000
# Of these columns the page has other uses than colour, or none.
_OTHER = ("id", "theta", "curve", "stage_r2", "failed_at")
_DIGITS = 6


def contents(folder: Path) -> dict[str, Any]:
    """What the folder of a run, a meta-model or a population says: `result` (its result.json), `networks`, `training`, `analyses`.

    `networks`: `ids`; `columns`, of the population table those that differ, numbers as {"values"} and text as {"levels", "codes"};
    `constant`, the others; `curves`, the training loss of every epoch, and `group_curves`, its mean by group; with a meta-model `theta`
    (M, D), `components` (M, 3) along its principal axes and their `shares` of the variance. `training`: by meta-model the losses along
    training. `analyses`: by name and table the columns. Raises `InputError` where nothing finished is there.
    """
    if not (folder / "result.json").exists():
        raise InputError(f"{folder} holds no finished run (no result.json there): finish it with --resume")
    result = json.loads((folder / "result.json").read_text())
    if "models" in result:
        raise InputError(
            f"{folder} holds a sweep: report one of its meta-models, {', '.join(str(folder / row['name']) for row in result['models'])}"
        )
    table = _networks(folder)
    networks = _columns_of_networks(table)
    if "theta" in table.column_names:
        theta_MD = np.array(table["theta"].to_pylist())
        components, shares = principal(theta_MD)
        networks |= {"theta": _numbers(theta_MD), "components": _numbers(components), "shares": _numbers(shares)}
    metas = [folder] if (folder / "meta.json").exists() else sorted(path.parent for path in folder.glob("*/meta.json"))
    metas.sort(key=lambda path: path.name == "control")
    ids = set(networks["ids"][:: -(-len(table) // DETAILED)])
    return {
        "result": result,
        "networks": networks,
        "training": {path.name: _losses(path / "progress.jsonl") for path in metas},
        "analyses": {name: found for name, files in TABLES.items() if (found := _analysis(folder / "analysis" / name, files, ids))},
    }


def principal(theta_MD: np.ndarray, count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the largest principal axes, (M, `count`), zero where there are fewer, and their shares of the variance."""
    u, s, _ = np.linalg.svd(theta_MD - theta_MD.mean(axis=0), full_matrices=False)
    places, shares = np.zeros((len(theta_MD), count)), np.zeros(count)
    used = min(count, len(s))
    places[:, :used] = u[:, :used] * s[:used]
    shares[:used] = s[:used] ** 2 / max((s**2).sum(), np.finfo(float).tiny)
    return places, shares


def _networks(folder: Path) -> pa.Table:
    """A row per network."""
    if (folder / "networks.parquet").exists():
        return pq.read_table(folder / "networks.parquet")
    if not (folder / "meta.json").exists():
        return Population.open(folder / "population").table()
    meta = MetaModel.open(folder)
    table = meta.population.table()
    row = {id: place for place, id in enumerate(table["id"].to_pylist())}
    return table.take([row[id] for id in meta.network_ids]).append_column("theta", pa.array(meta.embedding.tolist()))


def _columns_of_networks(table: pa.Table) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    constant: dict[str, Any] = {}
    for name in table.column_names:
        if name in _OTHER or table[name].null_count == len(table):
            continue
        values = _numbers(table[name].to_pylist())
        levels = list(dict.fromkeys(values))
        if len(levels) == 1:
            if levels[0] is not None:
                constant[name] = levels[0]
        elif any(isinstance(level, str) for level in levels):
            place = {level: code for code, level in enumerate(levels)}
            columns[name] = {"levels": ["" if level is None else level for level in levels], "codes": [place[value] for value in values]}
        else:
            columns[name] = {"values": values}
    curves: dict[str, list[np.ndarray]] = {}
    for group, curve in zip(table["group"].to_pylist(), table["curve"].to_pylist(), strict=True):
        if curve:
            curves.setdefault(group, []).append(np.array(curve, dtype=float))
    return {
        "ids": table["id"].to_pylist(),
        "columns": columns,
        "constant": constant,
        "curves": _numbers(table["curve"].to_pylist()) if len(table) <= CURVES else [],
        "group_curves": {group: _numbers(_mean_curve(own)) for group, own in curves.items()},
    }


def _mean_curve(curves: list[np.ndarray]) -> np.ndarray:
    """The mean at every epoch over those that were still trained."""
    longest = max(map(len, curves))
    padded = np.array([np.pad(curve, (0, longest - len(curve)), constant_values=np.nan) for curve in curves])
    counts = (~np.isnan(padded)).sum(axis=0)
    return np.where(counts > 0, np.nansum(padded, axis=0) / np.maximum(counts, 1), np.nan)


def _losses(path: Path) -> dict[str, list[Any]]:
    """Columns of the lines that a training has left."""
    lines = list(read_lines(path))
    return {name: _numbers([line.get(name) for line in lines]) for name in ("step", "loss", "hidden", "output", "held_out_loss")}


def _analysis(folder: Path, files: tuple[str, ...], ids: set[str]) -> dict[str, dict[str, list[Any]]]:
    """By table, its columns."""
    tables = {name: pq.read_table(folder / f"{name}.parquet") for name in files if (folder / f"{name}.parquet").exists()}
    tables = {name: table for name, table in tables.items() if len(table)}
    for name in set(tables) & {"points", "trajectories"}:
        tables[name] = tables[name].filter(pc.is_in(tables[name]["id"], pa.array(sorted(ids))))
    found = {name: {column: _numbers(table[column].to_pylist()) for column in table.column_names} for name, table in tables.items()}
    if "memory" in found:
        for kernels in (found["memory"]["base_kernel"], found["memory"]["meta_kernel"]):
            kernels[:] = [kernel if id in ids else None for id, kernel in zip(found["memory"]["id"], kernels, strict=True)]
    return found


def _numbers(values: Any) -> Any:
    """Numbers in lists of any depth with as many digits as a figure needs, and None for what JSON cannot say."""
    if isinstance(values, np.ndarray):
        return _numbers(values.tolist())
    if isinstance(values, list):
        return [_numbers(value) for value in values]
    if isinstance(values, float):
        return float(f"{values:.{_DIGITS}g}") if math.isfinite(values) else None
    return values
