"""Which networks train together: cohorts that can be stacked, cut into chunks that fit a worker and keep all of them busy.

A plan is made once per population and kept: whoever resumes, with however many workers, trains the same chunks, and what a chunk
gives depends on its specifications alone.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from dynamo_dist.population.specs import NetworkSpec, Specs

# Bytes that the training of one chunk may take, by default: a choice, not a measured optimum. What a lost worker loses grows with it.
CHUNK_BYTES = 1_000_000_000
# Networks in a chunk at the most.
CHUNK_NETWORKS = 256
# The last chunk that a worker takes is cut in parts where it is more than this share of the worker's work, and in so many at most: the
# others wait for it. Not where a worker has only a few chunks: then smaller stacks cost more than the wait.
TAIL, TAIL_PARTS, FEW = 0.01, 4, 4
# What must be equal for networks to be stacked. Networks with as many steps per epoch also stay in step.
_COHORT = ("architecture", "data", "batch", "epochs")


@dataclass(frozen=True, kw_only=True, order=True)
class Chunk:
    """Networks at the positions `first` to `first + networks` of a plan: what one worker trains in one stack."""

    first: int
    networks: int

    @property
    def stop(self) -> int:
        return self.first + self.networks

    def halves(self) -> tuple["Chunk", "Chunk"]:
        half = self.networks // 2
        return Chunk(first=self.first, networks=half), Chunk(first=self.first + half, networks=self.networks - half)


@dataclass(frozen=True)
class Plan:
    """`order`: the row of the network at every position, cohort by cohort, int64 (N,). `bounds`: positions at which chunks begin, and
    N at the end, int64 (chunks + 1,). `costs`: of the networks in this order, float64 (N,)."""

    order: np.ndarray
    bounds: np.ndarray
    costs: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def chunks(self) -> Iterator[Chunk]:
        for first, stop in zip(self.bounds[:-1].tolist(), self.bounds[1:].tolist(), strict=True):
            yield Chunk(first=first, networks=stop - first)

    def rows(self, chunk: Chunk) -> np.ndarray:
        """Rows of a chunk's networks in the specifications, int64 (m,)."""
        return self.order[chunk.first : chunk.stop]

    def cost(self, chunk: Chunk) -> float:
        """Relative cost of training a chunk."""
        return float(self.costs[chunk.first : chunk.stop].sum())

    def remaining(self, done: Iterable[Chunk]) -> list[Chunk]:
        """What is left of every chunk, the largest number of networks together."""
        left = np.ones(len(self.order) + 1, dtype=bool)
        left[-1] = False
        for chunk in done:
            left[chunk.first : chunk.stop] = False
        parts = []
        for chunk in self.chunks():
            piece = left[chunk.first : chunk.stop]
            if piece.all():
                parts.append(chunk)
            elif piece.any():
                edges = np.flatnonzero(np.diff(np.concatenate([[False], piece, [False]]).astype(np.int8)))
                parts += [Chunk(first=chunk.first + int(a), networks=int(b - a)) for a, b in edges.reshape(-1, 2)]
        return parts


def costs(specs: Specs, input_shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    """Relative cost of training every network: multiply-adds of one input times inputs seen; float64 (N,)."""
    code, count = specs.codes("architecture", "data")
    _, first = np.unique(code, return_index=True)
    operations = np.zeros(count)
    for row in first:
        spec = specs[int(row)]
        operations[code[row]] = spec.architecture.operations(input_shapes[spec.data])
    cost_N: np.ndarray = operations[code] * specs.values("epochs") * specs.steps_per_epoch() * specs.values("batch")
    return cost_N


def make_plan(
    specs: Specs, cost_N: np.ndarray, *, workers: int, bytes_per_network: Callable[[NetworkSpec], int], chunk_bytes: int = CHUNK_BYTES
) -> Plan:
    """Cut cohorts so that every worker has work, that a chunk takes at most `chunk_bytes`, and no further: a smaller stack wastes time
    in overhead.

    `bytes_per_network(spec)` is asked once per cohort: what one more network adds to the memory of a training step.
    """
    code, count = specs.codes(*_COHORT)
    per_epoch = specs.steps_per_epoch()
    _, code = np.unique(code * (int(per_epoch.max()) + 1) + per_epoch, return_inverse=True)
    count = int(code.max()) + 1
    order = np.argsort(code, kind="stable")  # the networks of a cohort stay in the order of the specifications
    sizes = np.bincount(code, minlength=count)
    # Cohorts in the order in which the specifications name them.
    starts = np.concatenate([[0], np.cumsum(sizes)])
    first_row = order[starts[:-1]]
    cohort_cost = np.bincount(code, weights=cost_N, minlength=count)
    total = cohort_cost.sum() or 1.0  # imported networks cost nothing
    pieces_order, bounds = [], [0]
    for cohort in np.argsort(first_row):
        size, rows = int(sizes[cohort]), order[starts[cohort] : starts[cohort + 1]]
        fit = max(1, min(CHUNK_NETWORKS, chunk_bytes // max(1, bytes_per_network(specs[int(rows[0])]))))
        pieces = min(size, max(math.ceil(cohort_cost[cohort] / total * max(1, workers)), math.ceil(size / fit)))
        pieces_order.append(rows)
        start = bounds[-1]
        bounds += [start + (piece + 1) * size // pieces for piece in range(pieces)]
    order = np.concatenate(pieces_order)
    costs = cost_N[order]
    return Plan(order=order, bounds=_shorten_tail(np.array(bounds, dtype=np.int64), costs, workers), costs=costs)


def _shorten_tail(bounds: np.ndarray, costs: np.ndarray, workers: int) -> np.ndarray:
    """Bounds with the cheapest chunks, those that are trained last, cut in parts: one for every worker."""
    chunks = np.add.reduceat(costs, bounds[:-1])
    if workers < 2 or len(chunks) < FEW * workers or not chunks.any():
        return bounds
    share = chunks.sum() / workers
    cuts = [bounds]
    for chunk in np.argsort(chunks, kind="stable")[:workers].tolist():
        first, stop = int(bounds[chunk]), int(bounds[chunk + 1])
        parts = min(TAIL_PARTS, math.ceil(chunks[chunk] / (TAIL * share)), stop - first)
        cuts.append(first + np.arange(1, parts) * (stop - first) // parts)
    return np.sort(np.concatenate(cuts))
