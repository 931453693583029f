"""Everything in this process, one thing after the other: the oracle of the distributed runtime."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dynamo_dist.jobs import attempt
from dynamo_dist.metamodel.training import Alone, TrainingJob, train_shard


class LocalRuntime:
    workers = 0

    def __enter__(self) -> "LocalRuntime":
        return self

    def __exit__(self, *exc_info: object) -> None: ...

    def run(self, function: Callable[..., Any], jobs: deque[tuple]) -> Iterator[tuple[tuple, Any]]:
        while jobs:
            job = jobs.popleft()
            yield job, attempt(function, job)

    def train(self, jobs: Sequence[TrainingJob]) -> None:
        for job in jobs:
            train_shard(job, group=Alone())
