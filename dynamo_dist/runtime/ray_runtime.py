"""The distributed runtime: Ray actors for the population and the analyses, Ray Train for the meta-model."""

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynamo_dist import storage
from dynamo_dist.allocator import ENVIRONMENT
from dynamo_dist.commit import write_json
from dynamo_dist.errors import InputError
from dynamo_dist.jobs import ATTEMPTS, LOST, MEMORY, NODE, Failure, JobFailed, attempt
from dynamo_dist.metamodel import checkpoint
from dynamo_dist.metamodel.training import Diverged, TrainingJob, train_shard
from dynamo_dist.progress import say
from dynamo_dist.runtime.collective import TIMEOUT, Collective, meet_by, own_device

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


# Seconds without a sign of life after which a worker that works is taken for hung.
SILENCE = TIMEOUT.total_seconds()
# Seconds between two looks at the signs.
LOOK = 5.0
# Seconds in which Ray finds out that a machine is gone, and some: its head asks every 3 s, and gives up after five times without an answer.
UNREACHABLE = 30.0


class _Worker:
    """One per CPU core. Holds nothing between jobs, so a restarted one is as good."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)

    def where(self) -> tuple[int, str, str]:
        """Its process, its machine's address, and Ray's name of the machine."""
        return os.getpid(), ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id()

    def call(self, function: Callable[..., Any], job: tuple[Any, ...]) -> Any:
        return attempt(function, job)


class _Meeting(TorchConfig):
    """The process group of Ray Train, whose workers meet in the network of Ray's nodes."""

    @property
    def backend_cls(self) -> type:
        class Backend(super().backend_cls):  # type: ignore[misc]  # which class it is shows as it runs
            def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
                worker_group.execute(meet_by, worker_group.execute_single(0, ray.util.get_node_ip_address))
                super().on_start(worker_group, backend_config)

        return Backend


def _train_worker(arguments: dict[str, Any]) -> None:
    import torch

    device = own_device()
    if device.type == "cpu":
        torch.set_num_threads(1)
    group = Collective(device)
    for job in arguments["jobs"]:
        try:
            train_shard(job, group=group)
        except storage.StorageFailed:
            raise  # of this worker alone, perhaps: all start again from the newest checkpoint
        except (Diverged, InputError) as error:
            # Every worker comes here at the same step. Ray Train would start again what can only fail again: end, and say why.
            if group.rank == 0:
                write_json(job.path / FAILURE, {"diverged": isinstance(error, Diverged), "message": str(error)})
            return
    for job in arguments["jobs"]:
        job.forget_cache()


def _steps(jobs: Sequence[TrainingJob]) -> list[list[int]]:
    """The checkpoints that there are."""
    for job in jobs:
        storage.fetch(job.path)
    return [checkpoint.committed_steps(job.path) for job in jobs]


@dataclass(eq=False)
class _Member:
    """A worker as the command sees it: `up` is the answer to `where`, ready when the worker is."""

    actor: Any
    up: Any
    # Of the job that it does: the file with its signs of life, what was last seen of it, and when that was new.
    sign: Path | None = None
    seen: int | None = None
    since: float = 0.0

    def begin(self, sign: Path | None) -> None:
        self.sign, self.seen, self.since = sign, None, time.monotonic()

    def silent(self) -> bool:
        """Whether it has shown no sign of life for `SILENCE` seconds of this machine's clock: others may go wrong."""
        if self.sign is None:
            return False
        try:
            seen = self.sign.stat().st_mtime_ns
        except OSError:
            seen = None
        if seen != self.seen:
            self.seen, self.since = seen, time.monotonic()
        return time.monotonic() - self.since > SILENCE

    def failure(self, error: Exception) -> Failure:
        """What became of the job of a worker whose process is gone."""
        pid, address, node = ray.get(self.up)
        if isinstance(error, ray.exceptions.OutOfMemoryError):  # Ray ends a worker before the machine is out of memory
            return Failure(kind=MEMORY, message=str(error).splitlines()[0])
        if isinstance(error, ActorUnavailableError):
            # The connection broke. Soon Ray knows whether the process ended or the machine is gone.
            with contextlib.suppress(ray.exceptions.GetTimeoutError):
                try:
                    ray.get(self.actor.where.remote(), timeout=UNREACHABLE)
                except RayActorError as later:
                    error = later
        # A machine that cannot be reached is lost to us, whether Ray knows it yet or not.
        unreachable = isinstance(error, ActorUnavailableError)
        if not unreachable and any(known["NodeID"] == node and known["Alive"] for known in ray.nodes()):
            return Failure(kind=LOST, message=f"the worker {pid} on {address} died")
        return Failure(kind=NODE, message=f"the machine {address} of the worker {pid} was lost")

    def hung(self) -> Failure:
        pid, address, _ = ray.get(self.up)
        return Failure(kind=LOST, message=f"the worker {pid} on {address} showed no sign of life for {SILENCE:.0f} s and was ended")


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
        self._pool: list[_Member] = []
        # A task is given out again by us, never by Ray: a poisonous one would take down the next actor unseen.
        self._actor_class = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(_Worker)

    def __enter__(self) -> "RayRuntime":
        polite_end = signal.getsignal(signal.SIGTERM)
        try:
            self._connect()
        finally:
            # Ray aborts the process on SIGTERM, which is how a preemption begins: the command's own handler stops everything in order.
            if polite_end is not None and threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, polite_end)
        return self

    def _connect(self) -> None:
        logging.getLogger("ray").setLevel(logging.ERROR)
        options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False, "runtime_env": {"env_vars": ENVIRONMENT}}
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
                raise InputError(
                    f"--address {self.address}: cannot connect to the Ray cluster there ({reason}); its token is needed, in RAY_AUTH_TOKEN or "
                    "in the file that RAY_AUTH_TOKEN_PATH names"
                ) from None
            cores = int(ray.cluster_resources().get("CPU", 0))
            if self.workers > cores:
                ray.shutdown()
                raise InputError(f"--workers {self.workers}: the cluster at {self.address} has {cores} CPU cores; use at most {cores}")

    def __exit__(self, *exc_info: object) -> None:
        self._dismiss()
        ray.shutdown()

    def wait(self) -> None: ...

    def _hire(self, count: int) -> None:
        """Have `count` workers, but no more than `workers` of them. They are kept for the next stage: starting one takes seconds."""
        while len(self._pool) < min(self.workers, count):
            actor: Any = self._actor_class.remote()  # Ray's stubs know no methods of actors but decorated ones
            self._pool.append(_Member(actor=actor, up=actor.where.remote()))

    def _end(self, member: _Member) -> None:
        """End a worker, dead or hung. Another takes its place: Ray's own restart would refuse calls until the process is back, and count
        as deaths what are none."""
        ray.kill(member.actor)
        self._pool.remove(member)

    def _dismiss(self) -> None:
        """Free the workers' CPUs."""
        while self._pool:
            self._end(self._pool[-1])

    def run(
        self, function: Callable[..., Any], jobs: deque[tuple[Any, ...]], *, sign: Callable[[tuple[Any, ...]], Path] | None = None
    ) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Workers pull jobs; one that died or hangs is replaced. Only a worker that is up gets a job: where a machine is gone for good, no
        job waits for it while others could do it."""
        starting = {member.up: member for member in self._pool}
        idle: list[_Member] = []
        running: dict[Any, tuple[_Member, tuple[Any, ...]]] = {}
        stillborn, looked = 0, time.monotonic()

        def hand_out() -> None:
            while idle and jobs:
                member, job = idle.pop(), jobs.popleft()
                member.begin(sign and sign(job))
                running[member.actor.call.remote(function, job)] = (member, job)

        try:
            while jobs or running:
                self._hire(len(jobs) + len(running))
                starting |= {member.up: member for member in self._pool[len(starting) + len(idle) + len(running) :]}
                hand_out()
                ready, _ = ray.wait([*starting, *running], num_returns=1, timeout=LOOK if sign else None)
                for reference in ready:
                    if reference in running:
                        member, job = running.pop(reference)
                        try:
                            result = ray.get(reference)
                        except (RayActorError, ray.exceptions.OutOfMemoryError) as error:
                            result = member.failure(error)
                            self._end(member)
                        else:
                            idle.append(member)
                            hand_out()  # the worker works while the result is taken in
                        yield job, result
                        continue
                    member = starting.pop(reference)
                    try:
                        ray.get(reference)
                    except RayActorError as error:  # its machine went meanwhile, or it cannot start at all
                        self._end(member)
                        stillborn += 1
                        if stillborn > ATTEMPTS * self.workers:
                            raise JobFailed(f"{stillborn} workers could not start, the last one: {str(error).splitlines()[-1]}") from None
                    else:
                        idle.append(member)
                        stillborn = 0
                if sign and time.monotonic() - looked > LOOK:
                    looked = time.monotonic()
                    for reference in [reference for reference, (member, _) in running.items() if member.silent()]:
                        member, job = running.pop(reference)
                        self._end(member)
                        yield job, member.hung()
        finally:
            if running:  # an error or an interrupt: what still runs has no reader any more
                self._dismiss()

    def _fit(self, fit: Callable[[], None], jobs: Sequence[TrainingJob]) -> None:
        """Train to the end, for as long as there are new checkpoints: on machines that come and go a long training loses many workers."""
        while True:
            before = _steps(jobs)
            try:
                return _in_thread(fit)
            except TrainingFailedError:
                if before == _steps(jobs):
                    raise
                say(f"workers were lost {ATTEMPTS} times, but there are new checkpoints: going on from them")

    def train(self, jobs: Sequence[TrainingJob]) -> None:
        self._dismiss()
        # Ray Train wants a folder for its own records; our checkpoints are ours.
        folder = jobs[0].path
        records = folder / ("ray-train" if storage.mirrored(folder) else ".ray-train")
        filesystem, records_name = storage.place(records)
        for job in jobs:
            storage.remove(job.path / FAILURE)
        gpus = ray.cluster_resources().get("GPU", 0) >= self.workers

        def fit() -> None:
            TorchTrainer(
                _train_worker,
                train_loop_config={"jobs": list(jobs)},
                scaling_config=ScalingConfig(
                    num_workers=self.workers, use_gpu=gpus, resources_per_worker={"CPU": 1, **({"GPU": 1} if gpus else {})}
                ),
                torch_config=_Meeting(backend="nccl" if gpus else "gloo", timeout_s=int(TIMEOUT.total_seconds())),
                run_config=RunConfig(
                    name=f"meta-{secrets.token_hex(4)}",
                    storage_path=records_name,
                    storage_filesystem=filesystem,
                    # A lost worker ends them all; as many start again from the newest checkpoint. The number stays (Ray Train could also go
                    # on with fewer): sums keep their order, so the result is that of an undisturbed run, and Ray Train's growing again would
                    # throw away steps. Fewer workers continue with --resume.
                    failure_config=FailureConfig(max_failures=ATTEMPTS - 1, controller_failure_limit=STARTS),  # type: ignore[call-arg]  # Ray Train's second version
                ),
            ).fit()

        try:
            self._fit(fit, jobs)
        except TrainingFailedError as error:
            failures = list(getattr(error, "worker_failures", {}).values()) or [error]
            raise JobFailed(
                f"the workers of a meta-model failed {ATTEMPTS} times or could not be started; the last reason: "
                f"{str(failures[0]).strip().splitlines()[-1]}; continue with --resume, on fewer workers if some are gone for good"
            ) from None
        finally:
            with contextlib.suppress(OSError, storage.StorageFailed):
                storage.remove(records)
        for job in jobs:
            failure = job.path / FAILURE
            storage.fetch(failure)
            if failure.exists():
                record = json.loads(failure.read_text())
                storage.remove(failure)
                raise (Diverged if record["diverged"] else InputError)(record["message"])
