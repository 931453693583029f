"""Which D, K and lambda a population needs: meta-models around given settings, one setting changed at a time, and the control without
theta, compared on the held-out inputs alone. No label is read and the test part is not looked at.

The held-out inputs also choose the checkpoint of every model, so the scores are a little better than on inputs that decide nothing;
that is the same for all of them. What is chosen here is measured on the test part, once, afterwards.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from dynamo_dist.analysis.emulation import Emulation
from dynamo_dist.commit import read_lines
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel, MetaModelConfig, checkpoint, folder
from dynamo_dist.metamodel.shard import split
from dynamo_dist.population import Population

GIVEN, CONTROL = "given", "control"
# The settings that are changed, and by what factor.
FACTORS = {"dimensions": (0.5, 2), "hidden": (0.5, 2), "output_weight": (0.3, 3)}
# Models whose loss is this much above the lowest, relatively, are taken as equally good.
TOLERANCE = 0.05
# How far the agreement on disputed inputs has to be above that of the control for theta to carry what tells networks apart.
DISPUTED_GAIN = 0.10


def settings(config: MetaModelConfig, population: Population) -> dict[str, MetaModelConfig]:
    """The meta-models of a sweep around `config`, by name. Raises `InputError` where they would not differ or could not be compared."""
    if not config.use_theta:
        raise InputError("--sweep with use_theta=false: every model would be the control; leave use_theta at true")
    if not config.output_weight:
        raise InputError("--sweep with output_weight=0: three times that is 0 as well; give a positive weight")
    for field in ("dimensions", "hidden"):
        if getattr(config, field) < 2:
            raise InputError(f"--sweep with {field}={getattr(config, field)}: there is no half of it; give 2, whose half is 1")
    for data in sorted({population.spec(id).data for id in population.network_ids}):
        count = len(population.dataset(data).meta)
        if not len(split(config, count)[1]):
            raise InputError(
                f"--sweep with held_out={config.held_out}: of the {count} inputs without labels of the data set {data!r} none is held "
                "out, and models are compared on those; give a larger share, below 1"
            )
    models = {GIVEN: config}
    for field, factors in FACTORS.items():
        given = getattr(config, field)
        for factor in factors:
            # Half of an odd number is rounded down; three times 0.3 is 0.9, not 0.8999999999999999.
            value = float(f"{given * factor:.6g}") if field == "output_weight" else int(given * factor)
            changed: dict[str, Any] = {field: value}
            models[f"{field}-{value:g}"] = dataclasses.replace(config, **changed)
    models[CONTROL] = dataclasses.replace(config, use_theta=False)
    return models


@dataclass(frozen=True, kw_only=True)
class Row:
    """One meta-model of a sweep on the held-out inputs, at the checkpoint that is opened. None: the population has no such networks."""

    name: str
    dimensions: int
    hidden: int
    output_weight: float
    use_theta: bool
    step: int
    # Terms of the loss; `loss` is their sum, with lambda = 1 whatever the model was trained with: on one scale for all.
    loss: float
    hidden_error: float
    output_error: float
    # Over networks.
    hidden_r2_median: float
    hidden_r2_min: float
    # Medians over the networks that answer with classes: agreement on all held-out inputs, on those that divide the population, and
    # KL(base || meta); over those that answer with values: R^2 of the meta-model's outputs against theirs.
    agreement: float | None
    disputed_agreement: float | None
    output_kl: float | None
    output_r2: float | None
    # Numbers that are trained: shared by all networks, and theta and V of all of them together.
    shared_parameters: int
    private_parameters: int
    # As it ran, on whatever else the machine did.
    seconds_per_step: float


def row(name: str, meta: MetaModel, scores: Emulation) -> Row:
    """`scores`: of all its networks on the held-out inputs."""
    opened = folder.final_checkpoint(meta.path)
    record = read_lines(meta.path / folder.PROGRESS)
    line = next(line for line in record if checkpoint.step_path(meta.path, line["step"]) == opened)
    private = {key: tensor for key, tensor in checkpoint.read_private(opened).items() if not key.startswith(("mean.", "square."))}
    if not meta.config.use_theta:
        private = {key: tensor for key, tensor in private.items() if not key.startswith("theta/")}
    classes = np.array([network.task[1] == "classes" for network in scores.networks])
    return Row(
        name=name,
        dimensions=meta.config.dimensions,
        hidden=meta.config.hidden,
        output_weight=meta.config.output_weight,
        use_theta=meta.config.use_theta,
        step=line["step"],
        loss=line["held_out_hidden"] + line["held_out_output"],
        hidden_error=line["held_out_hidden"],
        output_error=line["held_out_output"],
        hidden_r2_median=float(np.median(scores.hidden_r2)),
        hidden_r2_min=float(scores.hidden_r2.min()),
        agreement=_median(scores.agreement[classes]),
        disputed_agreement=_median(scores.disputed_agreement[classes]),
        output_kl=_median(scores.output_kl[classes]),
        output_r2=_median(scores.agreement[~classes]),
        shared_parameters=sum(p.numel() for p in meta.dynamics.parameters()),
        private_parameters=sum(tensor.numel() for tensor in private.values()),
        seconds_per_step=_seconds_per_step(record),
    )


def _median(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else None


def _seconds_per_step(record: Sequence[dict[str, Any]]) -> float:
    """Median over the record's intervals. Where training was continued its clock started anew: that interval is left out."""
    marks = [(0, 0.0), *((line["step"], line["seconds"]) for line in record)]
    spans = [(after[0] - before[0], after[1] - before[1]) for before, after in itertools.pairwise(marks)]
    return float(np.median([seconds / steps for steps, seconds in spans if seconds >= 0]))


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    dimensions: int
    hidden: int
    output_weight: float
    # The model of the sweep that has these settings; None where there is none.
    model: str | None
    reason: str
    # Whether theta pays against the control, and by what.
    theta_pays: bool
    theta_reason: str


def recommend(rows: Sequence[Row]) -> Recommendation:
    """The setting that the sweep speaks for.

    D: the smallest of its three values whose held-out loss is within 5 % of the lowest of the three; K likewise. lambda: of its three
    values those whose hidden error is within 5 % of the lowest, and of these the one with the best agreement on disputed inputs (where
    there are none, with the best agreement or output R^2); the given one where it is as good as that. Settings are changed one at a
    time, so each is judged among models that differ in nothing else, and their combination may not have been trained.
    """
    by_name = {row.name: row for row in rows}
    chosen, reasons = {}, []
    for field, symbol in (("dimensions", "D"), ("hidden", "K")):
        axis = _axis(rows, field)
        lowest = min(row.loss for row in axis)
        best = next(row for row in axis if row.loss <= (1 + TOLERANCE) * lowest)
        chosen[field] = getattr(best, field)
        reasons.append(
            f"{symbol} = {chosen[field]} is the smallest of {', '.join(str(getattr(row, field)) for row in axis)} with a held-out loss "
            f"({best.loss:.4f}) within 5 % of the lowest ({lowest:.4f})"
            + (", and the largest that was tried: more may do better" if best is axis[-1] else "")
        )
    axis = _axis(rows, "output_weight")
    lowest = min(row.hidden_error for row in axis)
    close = [row for row in axis if row.hidden_error <= (1 + TOLERANCE) * lowest]
    score, what = _output_score(axis)
    best = max(close, key=lambda row: (getattr(row, score), row.name == GIVEN))
    chosen["output_weight"] = best.output_weight
    reasons.append(
        f"lambda = {best.output_weight:g} has the best {what} ({getattr(best, score):.4f}) of the weights with a hidden error within 5 % of "
        f"the lowest ({', '.join(f'{row.output_weight:g}' for row in close)})"
    )
    model = next((row.name for row in rows if row.use_theta and all(getattr(row, field) == chosen[field] for field in chosen)), None)
    if model is None:
        reasons.append("no model of the sweep has all of these, so train one and compare it with the given one")
    pays, theta_reason = _theta_pays(by_name[GIVEN], by_name[CONTROL])
    return Recommendation(**chosen, model=model, reason="; ".join(reasons), theta_pays=pays, theta_reason=theta_reason)


def _axis(rows: Sequence[Row], field: str) -> list[Row]:
    """The given model and those that differ from it in this setting alone, by its value."""
    return sorted((row for row in rows if row.name == GIVEN or row.name.startswith(f"{field}-")), key=lambda row: getattr(row, field))


def _output_score(rows: Sequence[Row]) -> tuple[str, str]:
    """What tells how well outputs are emulated, the larger the better, and its name: the first of these that the population has."""
    scores = (("disputed_agreement", "disputed agreement"), ("agreement", "agreement"), ("output_r2", "output R^2"))
    return next((field, what) for field, what in scores if all(getattr(row, field) is not None for row in rows))


def _theta_pays(given: Row, control: Row) -> tuple[bool, str]:
    """By the agreement on disputed inputs; where there are none, by the held-out loss.

    The loss alone does not tell where networks are disputed: private state maps reach most of it without theta.
    """
    if given.disputed_agreement is not None and control.disputed_agreement is not None:
        pays = given.disputed_agreement - control.disputed_agreement >= DISPUTED_GAIN - 1e-9
        compared = f"disputed agreement {given.disputed_agreement:.4f} against {control.disputed_agreement:.4f} of the control"
        least = f"{DISPUTED_GAIN:.2f} above it"
    else:
        pays = given.loss < (1 - TOLERANCE) * control.loss
        compared, least = f"held-out loss {given.loss:.4f} against {control.loss:.4f} of the control", "5 % below it"
    if pays:
        return True, f"theta pays: {compared}"
    return False, f"theta does not pay: {compared}, and at least {least} is asked for; the private state maps do without it"


_TYPES: dict[object, pa.DataType] = {str: pa.string(), int: pa.int64(), bool: pa.bool_()}
SCHEMA = pa.schema([pa.field(f.name, _TYPES.get(f.type, pa.float64())) for f in dataclasses.fields(Row)])


def table(rows: Sequence[Row]) -> pa.Table:
    """A row per model."""
    return pa.Table.from_pylist([dataclasses.asdict(row) for row in rows], schema=SCHEMA)


_COLUMNS = (
    ("D", "dimensions", "d"),
    ("K", "hidden", "d"),
    ("lambda", "output_weight", "g"),
    ("loss", "loss", ".4f"),
    ("hidden R^2", "hidden_r2_median", ".4f"),
    ("lowest R^2", "hidden_r2_min", ".4f"),
    ("agreement", "agreement", ".4f"),
    ("disputed", "disputed_agreement", ".4f"),
    ("KL", "output_kl", ".4f"),
    ("output R^2", "output_r2", ".4f"),
    ("shared", "shared_parameters", ",d"),
    ("private", "private_parameters", ",d"),
    ("ms/step", "seconds_per_step", ".1f"),
)


def text(rows: Sequence[Row]) -> str:
    """The table for people; columns that say nothing of this population are left out."""
    columns = [["model", *(row.name for row in rows)]]
    for title, field, form in _COLUMNS:
        values = [getattr(row, field) for row in rows]
        if field == "seconds_per_step":
            values = [1000 * value for value in values]
        if any(value is not None for value in values):
            columns.append([title, *("" if value is None else format(value, form) for value in values)])
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )
