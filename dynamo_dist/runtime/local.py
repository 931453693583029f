"""Everything in this process, one thing after the other: the oracle of the distributed runtime."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dynamo_dist.jobs import attempt
from dynamo_dist.metamodel.shard import Alone
from dynamo_dist.metamodel.training import TrainingJob, train_shard


class LocalRuntime:
    workers, leader = 0, True

    def wait(self) -> None: ...

    def __enter__(self) -> "LocalRuntime":
        return self

    def __exit__(self, *exc_info: object) -> None: ...

    def run(
        self, function: Callable[..., Any], jobs: deque[tuple[Any, ...]], *, sign: Callable[[tuple[Any, ...]], Path] | None = None
    ) -> Iterator[tuple[tuple[Any, ...], Any]]:
        while jobs:
            job = jobs.popleft()
            yield job, attempt(function, job)

    def train(self, jobs: Sequence[TrainingJob]) -> None:
        for job in jobs:
            train_shard(job, group=Alone())
