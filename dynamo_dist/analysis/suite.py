"""Every analysis by name, with its results in files: what `dynamo-dist analyze` runs.

An analysis leaves a folder of its name: `summary.json`, its findings, or why it does not apply to this meta-model, and a Parquet file for
every table of the numbers behind its figures.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from dynamo_dist.analysis.averages import compare_averages
from dynamo_dist.analysis.dynamics import fixed_points
from dynamo_dist.analysis.landscape import landscape
from dynamo_dist.analysis.reparameterize import copy_ratio
from dynamo_dist.analysis.semisupervised import semisupervised
from dynamo_dist.analysis.similarity import similarity
from dynamo_dist.analysis.stability import stability
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


ANALYSES: dict[str, Callable[[Subject], Result]] = {
    "similarity": lambda subject: similarity(subject.metas),
    "stability": lambda subject: stability(subject.metas),
    "averaging": lambda subject: compare_averages(subject.metas[0], control=subject.control),
    "landscape": lambda subject: landscape(subject.metas[0]),
    "semisupervised": lambda subject: semisupervised(subject.metas[0]),
    "fixed-points": lambda subject: fixed_points(subject.metas[0]),
    "reparameterize": lambda subject: copy_ratio(subject.metas[0]),
}


def analyse(name: str, metas: tuple[str, ...], control: str | None, out: str) -> dict[str, Any]:
    """Run one analysis on the meta-models in these folders, write its files into `out`, and return its summary: {"does_not_apply": why}
    where it has nothing to say of them. Paths in, little out: a job for any worker."""
    subject = Subject(tuple(MetaModel.open(path) for path in metas), None if control is None else MetaModel.open(control))
    folder = Path(out)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        result = ANALYSES[name](subject)
    except InputError as error:
        summary: dict[str, Any] = {"does_not_apply": str(error)}
    else:
        summary = result.summary()
        for table, rows in result.tables().items():
            pq.write_table(rows, folder / f"{table}.parquet")
    write_json(folder / SUMMARY, summary)  # last: an analysis without it is not finished
    return summary
