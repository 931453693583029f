"""Every analysis by name, with its results in files: what `dynamo-dist analyze` runs.

An analysis leaves a folder of its name: `summary.json`, its findings, or why it does not apply to this meta-model, and a Parquet file for
every table of the numbers behind its figures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from dynamo_dist import storage
from dynamo_dist.analysis.averages import compare_averages
from dynamo_dist.analysis.dynamics import centre_path, fixed_points
from dynamo_dist.analysis.landscape import landscape
from dynamo_dist.analysis.memory import memories
from dynamo_dist.analysis.reparameterize import copy_ratio
from dynamo_dist.analysis.semisupervised import semisupervised
from dynamo_dist.analysis.similarity import similarity
from dynamo_dist.analysis.stability import stability
from dynamo_dist.analysis.trajectory import trajectories
from dynamo_dist.commit import write_json
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel

SUMMARY = "summary.json"


class Result(Protocol):
    """What every analysis returns."""

    def summary(self) -> dict[str, Any]:
        """The findings as JSON values."""

    def tables(self) -> dict[str, pa.Table]:
        """The numbers behind every figure, by name."""


@dataclass(frozen=True)
class Subject:
    """What is analysed: meta-models of one population that differ in their seed, the first of which stands for them where one is enough,
    and the control without theta, where there is one."""

    metas: tuple[MetaModel, ...]
    control: MetaModel | None


@dataclass(frozen=True)
class ByTask:
    """One analysis of every task that the networks learned, a data set and one of its targets."""

    results: dict[str, Result]
    # Why it has nothing to say of the others.
    left_out: dict[str, str]

    @classmethod
    def of(cls, meta: MetaModel, run: Callable[..., Result]) -> "ByTask":
        """`run(meta, data=.., target=..)` of every task. Raises `InputError` where it applies to none."""
        results, left_out = {}, {}
        for data, target in dict.fromkeys((spec.data, spec.target) for spec in map(meta.population.spec, meta.network_ids)):
            name = target if len(meta.population.datasets) == 1 else f"{data}: {target}"
            try:
                results[name] = run(meta, data=data, target=target)
            except InputError as error:
                left_out[name] = str(error)
        if not results:
            raise InputError(next(iter(left_out.values())))
        return cls(results, left_out)

    def summary(self) -> dict[str, Any]:
        """By task."""
        found = {name: result.summary() for name, result in self.results.items()}
        return found | {name: {"does_not_apply": why} for name, why in self.left_out.items()}

    def tables(self) -> dict[str, pa.Table]:
        """Those of all tasks, one below the other, with the task in the first column."""
        tables: dict[str, list[pa.Table]] = {}
        for name, result in self.results.items():
            for table, rows in result.tables().items():
                tables.setdefault(table, []).append(rows.add_column(0, "task", pa.array([name] * len(rows), pa.string())))
        return {table: pa.concat_tables(parts, promote_options="permissive") for table, parts in tables.items()}


ANALYSES: dict[str, Callable[[Subject], Result]] = {
    "similarity": lambda subject: similarity(subject.metas),
    "stability": lambda subject: stability(subject.metas),
    "trajectory": lambda subject: trajectories(subject.metas),
    "averaging": lambda subject: compare_averages(subject.metas[0], control=subject.control),
    "landscape": lambda subject: ByTask.of(subject.metas[0], landscape),
    "semisupervised": lambda subject: ByTask.of(subject.metas[0], semisupervised),
    "fixed-points": lambda subject: fixed_points(subject.metas[0]),
    "memory": lambda subject: memories(subject.metas[0]),
    "theta-path": lambda subject: centre_path(subject.metas[0]),
    "reparameterize": lambda subject: copy_ratio(subject.metas[0]),
}


def analyse(name: str, metas: tuple[str, ...], control: str | None, out: str) -> dict[str, Any]:
    """Run one analysis on the meta-models in these folders, write its files into `out`, and return its summary: {"does_not_apply": why}
    where it has nothing to say of them. Paths in, little out: a job for any worker."""
    subject = Subject(tuple(MetaModel.open(path) for path in metas), None if control is None else MetaModel.open(control))
    folder = storage.local(out)
    storage.remove(folder)
    folder.mkdir(parents=True)
    try:
        result = ANALYSES[name](subject)
    except InputError as error:
        summary: dict[str, Any] = {"does_not_apply": str(error)}
    else:
        summary = result.summary()
        for table, rows in result.tables().items():
            pq.write_table(rows, folder / f"{table}.parquet")
        storage.publish(folder)
    write_json(folder / SUMMARY, summary)  # last: an analysis without it is not finished
    return summary
