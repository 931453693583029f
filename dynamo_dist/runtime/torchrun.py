"""Meta-models on the processes of `torchrun`, without Ray: every one of them runs the same command."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from dynamo_dist.errors import InputError
from dynamo_dist.metamodel.training import TrainingJob, train_shard
from dynamo_dist.runtime.collective import TIMEOUT, Collective, meet_by, own_device


def launched() -> bool:
    """Whether `torchrun` started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def restarted() -> bool:
    """Whether `torchrun --max-restarts` started it again after a worker was lost."""
    return _restarts() > 0


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


class TorchrunRuntime:
    """The process group that `torchrun` describes in the environment. Use as a context manager."""

    def __init__(self) -> None:
        self.workers, self.leader = int(os.environ["WORLD_SIZE"]), os.environ["RANK"] == "0"

    def __enter__(self) -> "TorchrunRuntime":
        device = own_device()
        if device.type == "cpu":
            torch.set_num_threads(1)
        meet_by(os.environ["MASTER_ADDR"])
        store, rank, size = next(torch.distributed.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[attr-defined]  # torch does not say that it is exported
        # After a restart torchrun's store still holds the addresses of the processes that died (torch 2.13): each start has its own part.
        store = torch.distributed.PrefixStore(f"start-{_restarts()}", store)  # type: ignore[attr-defined]  # as above
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        self.group = Collective(device)
        return self

    def __exit__(self, *exc_info: object) -> None:
        torch.distributed.destroy_process_group()

    def wait(self) -> None:
        self.group.gather("")

    def run(
        self, function: Callable[..., Any], jobs: deque[tuple[Any, ...]], *, sign: Callable[[tuple[Any, ...]], Path] | None = None
    ) -> Iterator[tuple[tuple[Any, ...], Any]]:
        raise InputError(
            "torchrun trains meta-models (dynamo-dist embed); populations and analyses run without it, on Ray or in one process"
        )

    def train(self, jobs: Sequence[TrainingJob]) -> None:
        for job in jobs:
            train_shard(job, group=self.group)
        for job in jobs:
            job.forget_cache()
