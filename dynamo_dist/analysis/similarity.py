"""Which networks compute alike, by the embedding and by the measures that people use without it, all judged by the same scores.

Legend: M networks.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa

from dynamo_dist.analysis.comparison import Scores, comparable, mds, score
from dynamo_dist.analysis.distances import EMBEDDED, MEASURES, baselines, check_measures, of_embedding
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel

SCORES = tuple(field.name for field in fields(Scores) if field.name not in ("p_value", "networks"))
FEWEST = 3


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One measure, of one meta-model where it is of the embedding."""

    measure: str
    # Position of the meta-model among those given, and its seed; None of measures of the base networks.
    meta: int | None
    seed: int | None
    # Symmetric float64 (M, M); NaN where the measure is not defined.
    distance: np.ndarray
    scores: Scores


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """Distances between all networks by every measure, judged against what they compute."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    # The labels that the scores are against.
    computations: tuple[str, ...]
    comparisons: tuple[Comparison, ...]

    def summary(self) -> dict[str, Any]:
        """JSON values: by measure the mean and the standard deviation over meta-models of every score, and the largest p-value."""
        return {
            "networks": len(self.ids),
            "meta_models": len({one.meta for one in self.comparisons} - {None}),
            "measures": {row.pop("measure"): row for row in self._measures()},
        }

    def tables(self) -> dict[str, pa.Table]:
        """`measures`: a row per measure, the table to read. `scores`: a row per measure and meta-model. `distances`: a row per pair of
        networks as well. `coordinates`: a row per network as well, with two coordinates of classical scaling; networks between which the
        measure is not defined are in another `set`, with coordinates of its own. What is not defined is null."""
        measures = self._measures()
        scores = [
            {"measure": one.measure, "meta": one.meta, "seed": one.seed, **{k: _known(v) for k, v in asdict(one.scores).items()}}
            for one in self.comparisons
        ]
        return {
            "measures": pa.Table.from_pylist(measures, schema=_schema(measures[0])),
            "scores": pa.Table.from_pylist(scores, schema=_schema(scores[0])),
            "distances": pa.concat_tables(map(self._distances, self.comparisons)),
            "coordinates": pa.concat_tables(map(self._coordinates, self.comparisons)),
        }

    def _distances(self, one: Comparison) -> pa.Table:
        ids, (first, second) = pa.array(self.ids), np.triu_indices(len(self.ids), 1)
        columns = {"first": ids.take(pa.array(first)), "second": ids.take(pa.array(second))}
        return pa.table(_about(one, len(first)) | columns | {"distance": pa.array(one.distance[first, second], from_pandas=True)})

    def _coordinates(self, one: Comparison) -> pa.Table:
        set_M, xy_M2 = np.zeros(len(self.ids), dtype=np.int64), np.zeros((len(self.ids), 2))
        for number, rows in enumerate(comparable(one.distance)):
            set_M[rows], xy_M2[rows] = number, mds(one.distance[np.ix_(rows, rows)])[:, :2]
        columns = {"id": self.ids, "group": self.groups, "computation": self.computations, "set": set_M, "x": xy_M2[:, 0], "y": xy_M2[:, 1]}
        return pa.table(_about(one, len(self.ids)) | {name: pa.array(values) for name, values in columns.items()})

    def _measures(self) -> list[dict[str, Any]]:
        return [self._over_meta_models(measure) for measure in dict.fromkeys(one.measure for one in self.comparisons)]

    def _over_meta_models(self, measure: str) -> dict[str, Any]:
        own = [one.scores for one in self.comparisons if one.measure == measure]
        row: dict[str, Any] = {"measure": measure, "meta_models": len(own) if measure in EMBEDDED else None}
        for name in SCORES:
            values = np.array([getattr(scores, name) for scores in own])
            # The sample standard deviation; of one meta-model, and of what depends on none, there is none.
            row |= {name: _known(values.mean()), f"{name}_sd": _known(values.std(ddof=1)) if len(values) > 1 else None}
        return row | {"p_value": _known(max(scores.p_value for scores in own)), "networks": own[0].networks}


def _about(one: Comparison, rows: int) -> dict[str, pa.Array]:
    values = {"measure": (one.measure, pa.string()), "meta": (one.meta, pa.int64()), "seed": (one.seed, pa.int64())}
    return {name: pa.array([value] * rows, type_) for name, (value, type_) in values.items()}


def similarity(metas: Sequence[MetaModel], *, measures: Collection[str] = MEASURES, seed: int = 0) -> Similarity:
    """Distances and their scores, by every measure of `distances`.

    `metas`: meta-models of one population that differ in their seeds, five or more for a spread that says something; `theta` and
    `pulled_back` are of each of them, the others are of the base networks. `measures`: which of them; `dsa` takes longest, about 0.02 s
    per pair of networks. `seed`: of the inputs that are sampled, of k-means and of the shufflings.

    Raises `InputError` for meta-models of unlike populations or networks, fewer than 3 networks, and networks that all compute the same.
    """
    check_measures(measures)
    meta = check_alike(metas)
    specs = [meta.population.spec(id) for id in meta.network_ids]
    labels = tuple(spec.computation for spec in specs)
    check_labels(meta, labels)

    def compared(measure: str, distance: np.ndarray, number: int | None = None) -> Comparison:
        own = None if number is None else metas[number].config.seed
        return Comparison(measure=measure, meta=number, seed=own, distance=distance, scores=score(distance, labels, seed=seed))

    found = [
        compared(measure, of_embedding(own, measure, seed=seed), number)
        for measure in EMBEDDED
        if measure in measures
        for number, own in enumerate(metas)
    ]
    base = baselines(meta.population, meta.network_ids, measures, seed=seed)
    found += [compared(measure, distance) for measure, distance in base.items()]
    return Similarity(ids=meta.network_ids, groups=tuple(spec.group for spec in specs), computations=labels, comparisons=tuple(found))


def check_alike(metas: Sequence[MetaModel]) -> MetaModel:
    """The first of meta-models of the same networks. Raises `InputError` where they are not that, or fewer than 3."""
    if not metas:
        raise InputError("there are no meta-models: give at least one")
    first = metas[0]
    for meta in metas[1:]:
        if meta.population_path != first.population_path:
            raise InputError(
                f"{meta.path} is of the population {meta.population_path} and {first.path} of {first.population_path}: compare meta-models "
                "of one population"
            )
        if meta.network_ids != first.network_ids:
            raise InputError(f"{meta.path} and {first.path} embed different networks of their population: train both on the same ones")
    if len(first.network_ids) < FEWEST:
        raise InputError(
            f"{first.path} embeds {len(first.network_ids)} networks: comparisons need at least {FEWEST}; train a larger population"
        )
    return first


def check_labels(meta: MetaModel, labels: Sequence[str]) -> None:
    if len(set(labels)) == 1:
        raise InputError(
            f"the networks of {meta.path} all compute {labels[0]!r}: comparisons need two computations; say in the groups which are which"
        )


def _known(value: float | int | None) -> float | int | None:
    return None if value is None or math.isnan(value) else float(value) if isinstance(value, float) else int(value)


def _schema(row: dict[str, Any]) -> pa.Schema:
    """Types by name, so that a column of nulls alone has the type that it always has."""
    types = {"measure": pa.string()} | dict.fromkeys(("meta", "seed", "meta_models", "networks"), pa.int64())
    return pa.schema([(name, types.get(name, pa.float64())) for name in row])
