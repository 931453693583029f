"""Figures of the analyses in a folder, drawn from the tables beside them; nothing is computed again."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dynamo_dist.report.contents import principal
from dynamo_dist.report.figures import COLOURS, Axes, Figure, blank_axes, of_run, save, style

# Networks whose fixed points are shown.
PORTRAITS = 6


def write_figures(folder: Path) -> list[Path]:
    """Draw what the folder of a run or a meta-model holds, as PNG, SVG and PDF: of a finished run into `figures/`, of every analysis beside
    its tables, of one of several tasks a figure each, numbered. Returns the files."""
    written = []
    with style():
        if (folder / "networks.parquet").exists():
            (folder / "figures").mkdir(exist_ok=True)
            for name, figure in of_run(folder):
                written += save(figure, folder / "figures" / name)
        for name, draw in FIGURES.items():
            own = folder / "analysis" / name
            tables = {file.stem: pq.read_table(file) for file in own.glob("*.parquet")}
            if not tables:
                continue
            by_task = _by_task(tables)
            for number, (task, rows) in enumerate(by_task.items()):
                figure = draw(rows)
                if task:
                    figure.suptitle(task, fontsize=9)
                written += save(figure, own / (f"{name}-{number}" if len(by_task) > 1 else name))
    return written


def _by_task(tables: dict[str, pa.Table]) -> dict[str, dict[str, pa.Table]]:
    """The tables of every task; of those without tasks as one, named ""."""
    tasks = dict.fromkeys(task for table in tables.values() if "task" in table.column_names for task in table["task"].to_pylist())
    if not tasks:
        return {"": tables}
    return {task: {name: table.filter(pc.equal(table["task"], task)) for name, table in tables.items()} for task in tasks}


def _column(table: pa.Table, name: str) -> np.ndarray:
    """As numbers, NaN where there is none, or as strings."""
    values = table[name]
    return np.array(values.to_pylist(), dtype=object if pa.types.is_string(values.type) else float)


def _by(labels: np.ndarray) -> dict[str, str]:
    """A colour for every label."""
    return dict(zip(dict.fromkeys(labels), itertools.cycle(COLOURS), strict=False))


def _grid(count: int, size: float = 2.4) -> tuple[Figure, list[Axes]]:
    columns = min(4, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(size * columns, size * rows), layout="constrained")
    return figure, [figure.add_subplot(rows, columns, number + 1) for number in range(count)]


def _similarity(tables: dict[str, pa.Table]) -> Figure:
    """Classical scaling of every measure, coloured by computation, with how well it sorts the networks."""
    points = tables["coordinates"]
    accuracy = dict(zip(_column(tables["measures"], "measure"), _column(tables["measures"], "nearest_neighbour"), strict=True))
    measure, computation, meta = (_column(points, name) for name in ("measure", "computation", "meta"))
    colour = _by(computation)
    figure, panels = _grid(len(accuracy))
    for axes, (name, share) in zip(panels, accuracy.items(), strict=True):
        rows = (measure == name) & (np.isnan(meta) | (meta == 0)) & (_column(points, "set") == 0)
        axes.scatter(_column(points, "x")[rows], _column(points, "y")[rows], c=[colour[own] for own in computation[rows]], s=18)
        axes.set_title(f"{name}: {100 * share:.0f} % nearest")
        axes.set(xticks=[], yticks=[])
    for label, own in colour.items():
        panels[-1].scatter([], [], c=own, label=label)
    figure.legend(loc="outside lower center", ncols=6)
    return figure


def _averaging(tables: dict[str, pa.Table]) -> Figure:
    """Scores of every way to make one network of several, a panel per group or pair."""
    table = tables["averaging"]
    name, method, score = (_column(table, column) for column in ("name", "method", "score"))
    names, methods = list(dict.fromkeys(name)), list(dict.fromkeys(method))
    figure, panels = _grid(len(names), size=3.0)
    for axes, own in zip(panels, names, strict=True):
        for place, way in enumerate(methods):
            found = score[(name == own) & (method == way)]
            axes.plot(found, np.full(len(found), -place), "o", color=COLOURS[place % len(COLOURS)], alpha=0.7)
        axes.set_yticks(-np.arange(len(methods)), [way.replace("_", " ") for way in methods], fontsize=7)
        axes.set_title(own)
    return figure


def _landscape(tables: dict[str, pa.Table]) -> Figure:
    """Test score over the plane, with the networks, their mean and the point that labelled examples chose."""
    grid, networks = tables["landscape"], tables["landscape_networks"]
    u, v = (np.unique(_column(grid, name)) for name in ("u", "v"))
    figure, axes = blank_axes(xlabel="direction 1", ylabel="direction 2")
    shown = axes.pcolormesh(u, v, _column(grid, "test").reshape(len(u), len(v)).T, shading="nearest", cmap="viridis")
    figure.colorbar(shown, ax=axes, label="test score")
    group = _column(networks, "group")
    for own, colour in _by(group).items():
        rows = group == own
        axes.plot(_column(networks, "u")[rows], _column(networks, "v")[rows], "o", color=colour, label=own, markeredgecolor="w")
    best = np.array(grid["best"].to_pylist())
    axes.plot(
        _column(grid, "u")[best], _column(grid, "v")[best], "*", color="w", markersize=12, markeredgecolor="k", label="best by labels"
    )
    axes.plot(0, 0, "+", color="w", markersize=10, label="mean")
    axes.legend(frameon=True)
    return figure


def _semisupervised(tables: dict[str, pa.Table]) -> Figure:
    """Test accuracy against the number of labels, mean and standard deviation over draws."""
    table = tables["semisupervised"]
    method, labels, score = (_column(table, name) for name in ("method", "labels", "score"))
    figure, axes = blank_axes(xlabel="labels", ylabel="test accuracy", xscale="log")
    for own, colour in _by(method).items():
        counts = np.unique(labels[(method == own) & ~np.isnan(score)])
        found = [score[(method == own) & (labels == count)] for count in counts]
        axes.errorbar(counts, [f.mean() for f in found], [f.std() for f in found], color=colour, marker="o", label=own)
    axes.legend()
    return figure


def _fixed_points(tables: dict[str, pa.Table]) -> Figure:
    """Fixed points at zero input of the meta-model at the vectors of some networks, filled where stable, slow points small."""
    every = tables["points"]
    points = every.filter(pc.and_(pc.equal(every["which"], "meta"), pc.equal(every["input"], "zero")))
    ids, stable, kind = _column(points, "id"), np.array(points["stable"].to_pylist()), _column(points, "kind")
    known = list(dict.fromkeys(ids))
    chosen = [known[place] for place in np.unique(np.linspace(0, max(0, len(known) - 1), PORTRAITS).round().astype(int))] if known else []
    figure, panels = _grid(max(1, len(chosen)))
    for axes, id in zip(panels, chosen, strict=False):
        x, y = (_column(points, f"component_{number}") for number in (1, 2))
        fixed, own = kind == "fixed", ids == id
        axes.scatter(x[own & ~fixed], y[own & ~fixed], s=4, color="#8c959f")
        axes.scatter(x[own & fixed & stable], y[own & fixed & stable], s=30, color=COLOURS[0])
        axes.scatter(x[own & fixed & ~stable], y[own & fixed & ~stable], s=30, facecolors="none", edgecolors=COLOURS[1])
        axes.set_title(id)
        axes.set(xticks=[], yticks=[])
    return figure


def _reparameterize(tables: dict[str, pa.Table]) -> Figure:
    """Distance of copies over distance between computations, by measure."""
    table = tables["copies"].filter(pc.is_valid(tables["copies"]["ratio"]))
    figure, axes = blank_axes(xlabel="distance of a copy / distance between computations")
    axes.barh(_column(table, "measure").tolist(), _column(table, "ratio"), color=COLOURS[0])
    return figure


def _memory(tables: dict[str, pa.Table]) -> Figure:
    """Kernels of all networks and of the meta-model at their thetas, each over its first value, a panel per computation."""
    table = tables["memory"]
    computation = _column(table, "computation")
    kernels = {name: np.array(table[f"{name}_kernel"].to_pylist()) for name in ("base", "meta")}
    figure, panels = _grid(len(dict.fromkeys(computation)), size=3.0)
    for axes, own in zip(panels, dict.fromkeys(computation), strict=True):
        for (name, kernel), colour in zip(kernels.items(), COLOURS, strict=False):
            rows = kernel[computation == own]
            axes.plot((rows / np.where(rows[:, :1] == 0, 1, rows[:, :1])).T, color=colour, linewidth=0.8, alpha=0.6)
            axes.plot([], [], color=colour, label={"base": "networks", "meta": "meta-model"}[name])
        axes.set_title(own, fontsize=8)
        axes.set(xlabel="steps before the end", ylim=(0, None))
    panels[0].set_ylabel("response")
    panels[0].legend(fontsize=7, frameon=False)
    return figure


def _theta_path(tables: dict[str, pa.Table]) -> Figure:
    """Fixed points of the meta-model on the way between two mean vectors by their first component, filled where stable, and bifurcations."""
    path = tables["path"]
    last = max(_column(path, "step").max(), 1)
    at, component = _column(path, "at"), _column(path, "component_1")
    stable = np.array(path["stable"].to_pylist())
    figure, axes = blank_axes(xlabel="along the path", ylabel="component 1", xlim=(-0.5 / last, 1 + 0.5 / last))
    axes.plot(at[stable], component[stable], "o", color=COLOURS[0], label="stable")
    axes.plot(at[~stable], component[~stable], "o", color=COLOURS[1], markerfacecolor="none", label="unstable")
    for place in _column(tables["bifurcations"], "at") if "bifurcations" in tables else ():
        axes.axvline(place, color="#8c959f", linestyle=":")
    axes.legend()
    return figure


def _trajectory(tables: dict[str, pa.Table]) -> Figure:
    """Networks along their training, in the principal components of all points of the first meta-model; large where training ended."""
    table = tables["trajectory"].filter(pc.equal(tables["trajectory"]["meta"], 0))
    points, shares = principal(np.array(table["theta"].to_pylist()), 2)
    path = _column(table, "path")
    figure, axes = blank_axes(xlabel=f"component 1 ({100 * shares[0]:.0f} % of variance)", ylabel=f"component 2 ({100 * shares[1]:.0f} %)")
    for own, colour in _by(path).items():
        rows = points[path == own]
        axes.plot(*rows.T, ".-", color=colour, linewidth=0.9)
        axes.plot(*rows[-1], "o", color=colour, label=own)
    if len(set(path)) <= len(COLOURS):
        axes.legend(fontsize=7)
    return figure


FIGURES: dict[str, Callable[[dict[str, pa.Table]], Figure]] = {
    "similarity": _similarity,
    "averaging": _averaging,
    "landscape": _landscape,
    "semisupervised": _semisupervised,
    "fixed-points": _fixed_points,
    "theta-path": _theta_path,
    "memory": _memory,
    "trajectory": _trajectory,
    "reparameterize": _reparameterize,
}
