"""The distributed runtime: Ray actors for the population and the analyses, Ray Train for the meta-model."""

import json
import logging
import os
import secrets
import shutil
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dynamo_dist.allocator import ENVIRONMENT
from dynamo_dist.commit import write_json
from dynamo_dist.errors import InputError
from dynamo_dist.jobs import ATTEMPTS, LOST, MEMORY, Failure, JobFailed, attempt
from dynamo_dist.metamodel.training import Diverged, TrainingJob, train_shard
from dynamo_dist.progress import say
from dynamo_dist.runtime.collective import TIMEOUT, Collective, own_device

# A local cluster of ours is closed to everyone who does not know its token, and reports to nobody. Ray reads these at import.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray Train: errors come back as exceptions; its progress lines would drown ours.
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

try:
    import ray
    import ray.train
    from ray.exceptions import ActorUnavailableError, RayActorError
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer
except ImportError as error:
    raise InputError(f"workers need Ray ({error}): pip install 'dynamo-jordan[ray]', or use --workers 0 for one process") from None

# What a worker leaves for the command when trying again would be of no use.
FAILURE = "failed.json"
# How often Ray Train tries to start all workers, 60 s each time, before the command gives up: a node that is gone may not come back.
STARTS = 10


class _Worker:
    """One per CPU core. Holds nothing between jobs, so a restarted one is as good."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)

    def call(self, function: Callable[..., Any], job: tuple) -> Any:
        return attempt(function, job)


def _train_worker(arguments: dict) -> None:
    import torch

    device = own_device()
    if device.type == "cpu":
        torch.set_num_threads(1)
    group = Collective(device)
    for job in arguments["jobs"]:
        try:
            train_shard(job, group=group)
        except (Diverged, InputError) as error:
            # Every worker comes here at the same step. Ray Train would start again what can only fail again: end, and say why.
            if group.rank == 0:
                write_json(Path(job.out) / FAILURE, {"diverged": isinstance(error, Diverged), "message": str(error)})
            return


def _in_thread(function: Callable[[], Any]) -> None:
    """Call a function in a thread and wait for it; raises what it raises.

    In the main thread Ray Train takes Ctrl-C for itself, and one that comes when training has just ended is lost. Here it
    interrupts the waiting, whatever Ray Train is doing; closing Ray then ends the training.
    """
    errors: list[BaseException] = []

    def call() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _reach(address: str) -> None:
    """Raise `InputError` at once where nothing listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return  # `auto` and names of sessions are Ray's to resolve
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise InputError(
            f"--address {address}: no Ray cluster answers there ({error}); give the head's address, as `ray start` prints it"
        ) from None


class RayRuntime:
    """`workers` processes with one CPU each, on a cluster of its own or on a running one. Use as a context manager."""

    leader = True

    def __init__(self, workers: int, address: str | None = None) -> None:
        self.workers, self.address = workers, address
        self._pool: list[Any] = []
        # A task is given out again by us, never by Ray: a poisonous one would take down the next actor unseen.
        self._actor_class = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)

    def __enter__(self) -> "RayRuntime":
        logging.getLogger("ray").setLevel(logging.ERROR)
        options = {"log_to_driver": False, "configure_logging": False, "runtime_env": {"env_vars": ENVIRONMENT}}
        if self.address is None:
            cores = len(os.sched_getaffinity(0))
            if self.workers > cores:
                raise InputError(
                    f"--workers {self.workers}: this machine has {cores} CPU cores; use at most {cores}, or --address of a cluster"
                )
            if os.environ["RAY_AUTH_MODE"] == "token":
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            say(f"starting Ray on this machine, {cores} cores")
            # "local": never a cluster that someone else runs, or ran, on this machine.
            ray.init("local", num_cpus=cores, include_dashboard=False, **options)
        else:
            _reach(self.address)
            try:
                ray.init(self.address, **options)
            except Exception as error:  # Ray has a class of its own for every way in which this fails, tokens included
                reason = str(error).split(". ")[0].splitlines()[0]
                raise InputError(f"--address {self.address}: cannot connect to the Ray cluster there ({reason})") from None
            cores = int(ray.cluster_resources().get("CPU", 0))
            if self.workers > cores:
                ray.shutdown()
                raise InputError(f"--workers {self.workers}: the cluster at {self.address} has {cores} CPU cores; use at most {cores}")
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._dismiss()
        ray.shutdown()

    def wait(self) -> None: ...

    def _actors(self, count: int) -> list[Any]:
        """At least `count` actors, up to one per worker. They are kept for the next stage: starting one takes seconds."""
        while len(self._pool) < min(self.workers, count):
            self._pool.append(self._actor_class.remote())
        return self._pool

    def _replace(self, actor: Any) -> Any:
        """A fresh actor for one that died. Ray's own restart would refuse calls until the process is back, and count as deaths
        what are none; a fresh actor queues them."""
        ray.kill(actor)
        self._pool[self._pool.index(actor)] = fresh = self._actor_class.remote()
        return fresh

    def _dismiss(self) -> None:
        """Free the actors' CPUs."""
        while self._pool:
            ray.kill(self._pool.pop())

    def run(self, function: Callable[..., Any], jobs: deque[tuple]) -> Iterator[tuple[tuple, Any]]:
        """Actors pull jobs; one that died is replaced."""
        idle = list(self._actors(len(jobs)))
        running: dict[Any, tuple[Any, tuple]] = {}
        try:
            while jobs or running:
                if jobs and not idle:  # fewer jobs than workers at first, and more now
                    known = len(self._pool)
                    idle += self._actors(known + len(jobs))[known:]
                while idle and jobs:
                    actor, job = idle.pop(), jobs.popleft()
                    running[actor.call.remote(function, job)] = (actor, job)
                (ready,), _ = ray.wait(list(running), num_returns=1)
                actor, job = running.pop(ready)
                try:
                    result = ray.get(ready)
                except (RayActorError, ActorUnavailableError) as error:
                    actor = self._replace(actor)
                    result = Failure(kind=LOST, message=str(error).splitlines()[0])
                except ray.exceptions.OutOfMemoryError as error:  # Ray ends a worker before the machine is out of memory
                    actor = self._replace(actor)
                    result = Failure(kind=MEMORY, message=str(error).splitlines()[0])
                idle.append(actor)
                yield job, result
        finally:
            if running:  # an error or an interrupt: what still runs has no reader any more
                self._dismiss()

    def train(self, jobs: Sequence[TrainingJob]) -> None:
        self._dismiss()
        # Ray Train wants a folder for its own records; our checkpoints are ours.
        records = Path(jobs[0].out) / ".ray-train"
        for job in jobs:
            (Path(job.out) / FAILURE).unlink(missing_ok=True)
        gpus = ray.cluster_resources().get("GPU", 0) >= self.workers
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"jobs": list(jobs)},
            scaling_config=ScalingConfig(
                num_workers=self.workers, use_gpu=gpus, resources_per_worker={"CPU": 1, **({"GPU": 1} if gpus else {})}
            ),
            torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=int(TIMEOUT.total_seconds())),
            run_config=RunConfig(
                name=f"meta-{secrets.token_hex(4)}",
                storage_path=str(records),
                # A lost worker ends them all; as many start again from the newest checkpoint. The number stays (Ray Train could also go
                # on with fewer): sums keep their order, so the result is that of an undisturbed run, and Ray Train's growing again would
                # throw away steps. Fewer workers continue with --resume.
                failure_config=FailureConfig(max_failures=ATTEMPTS - 1, controller_failure_limit=STARTS),
            ),
        )
        try:
            _in_thread(trainer.fit)
        except TrainingFailedError as error:
            failures = list(getattr(error, "worker_failures", {}).values()) or [error]
            raise JobFailed(
                f"the workers of a meta-model failed {ATTEMPTS} times or could not be started; the last reason: "
                f"{str(failures[0]).strip().splitlines()[-1]}; continue with --resume, on fewer workers if some are gone for good"
            ) from None
        finally:
            shutil.rmtree(records, ignore_errors=True)
        for job in jobs:
            failure = Path(job.out) / FAILURE
            if failure.exists():
                record = json.loads(failure.read_text())
                failure.unlink()
                raise (Diverged if record["diverged"] else InputError)(record["message"])
