"""Which networks train together: cohorts that can be stacked, cut into chunks that keep every actor busy."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dynamo_dist.population.specs import NetworkSpec, digest


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Networks that one actor trains in one stack. `name` is a hash of their specs and data."""

    name: str
    specs: tuple[NetworkSpec, ...]

    @property
    def label(self) -> str:
        """For progress lines, for example `8 gru-32`."""
        return f"{len(self.specs)} {self.specs[0].architecture.label}"

    @property
    def cost(self) -> float:
        """Relative cost: multiply-adds of the recurrence times the sequences seen."""
        return sum(s.steps * s.batch * s.architecture.operations(()) for s in self.specs)


def plan_chunks(specs: Sequence[NetworkSpec], *, data: str, workers: int) -> list[Chunk]:
    """Chunks in the order to train them: longest first, so that the last ones to finish are short.

    Networks stack when they share architecture, batch and number of steps. A cohort is cut only as far as needed to give every
    worker work: a smaller stack wastes time in overhead. The plan depends on `workers`; a chunk's result depends on its specs.
    """
    cohorts: dict[tuple, list[NetworkSpec]] = defaultdict(list)
    for spec in specs:
        cohorts[spec.architecture, spec.batch, spec.steps].append(spec)
    total = sum(Chunk(name="", specs=tuple(cohort)).cost for cohort in cohorts.values())
    chunks = []
    for cohort in cohorts.values():
        share = Chunk(name="", specs=tuple(cohort)).cost / total
        pieces = min(len(cohort), math.ceil(share * max(1, workers)))
        for piece in range(pieces):
            part = tuple(cohort[piece * len(cohort) // pieces : (piece + 1) * len(cohort) // pieces])
            chunks.append(Chunk(name=digest(part, data), specs=part))
    return sorted(chunks, key=lambda chunk: chunk.cost, reverse=True)
