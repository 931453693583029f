"""Where work runs: in this process (`LocalRuntime`, the oracle), or on Ray (`RayRuntime`, the only code that imports it)."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from dynamo_dist.metamodel.training import TrainingJob
from dynamo_dist.runtime.local import LocalRuntime
from dynamo_dist.runtime.torchrun import TorchrunRuntime, launched, restarted


class Runtime(Protocol):
    """Both runtimes do the same work; they differ in where."""

    # Processes that work at the same time; 0: this one.
    workers: int
    # Whether this process prepares folders and tells results: True but for all but one of the processes of a `torchrun`.
    leader: bool

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def wait(self) -> None:
        """Go on when all processes that run this program have come here."""

    def run(
        self, function: Callable[..., Any], jobs: deque[tuple[Any, ...]], *, sign: Callable[[tuple[Any, ...]], Path] | None = None
    ) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """As `jobs.Runner.run`."""

    def train(self, jobs: Sequence[TrainingJob]) -> None:
        """Train or continue meta-models, one after the other, each on `workers` workers together."""


def workers_of(workers: int) -> int:
    """Workers of the runtime that `open_runtime(workers)` would open."""
    return int(os.environ["WORLD_SIZE"]) if launched() else workers


def open_runtime(workers: int, address: str | None = None) -> Runtime:
    """A context manager: `LocalRuntime` for 0 workers, else Ray; with `address`, on a running cluster. In a process that `torchrun`
    started: its process group, whatever `workers` says."""
    if launched():
        return TorchrunRuntime()
    if workers == 0:
        return LocalRuntime()
    from dynamo_dist.runtime.ray_runtime import RayRuntime

    return RayRuntime(workers, address)


__all__ = ["LocalRuntime", "Runtime", "launched", "open_runtime", "restarted", "workers_of"]
