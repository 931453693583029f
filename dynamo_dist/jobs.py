"""Jobs and the ways in which they fail."""

import errno
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dynamo_dist.errors import InputError

LOST, NODE, MEMORY, STORAGE, ERROR = "lost worker", "lost node", "out of memory", "storage", "error"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job has no result.

    `lost worker`: its process died, or hung and was ended; `lost node`: the machine that it ran on is gone; `out of memory`: the same
    job in smaller parts may pass; `storage`: no space, or the folder cannot be written; `error`: the job raised an exception, and would
    again.
    """

    kind: str
    message: str


class JobFailed(RuntimeError):
    """A job that is not to be given up failed for good."""


def attempt(function: Callable[..., Any], job: tuple[Any, ...]) -> Any:
    """Call a job; what it raises comes back as a `Failure`, but wrong input, which nobody should try again, is raised."""
    try:
        return function(*job)
    except InputError:
        raise
    except MemoryError as error:
        return Failure(kind=MEMORY, message=str(error) or "MemoryError")
    except OSError as error:
        kind = STORAGE if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES) else ERROR
        return Failure(kind=kind, message=str(error))
    except Exception as error:
        return Failure(kind=_kind(error), message=f"{type(error).__name__}: {error}")


def _kind(error: Exception) -> str:
    # torch.OutOfMemoryError on a GPU; on a CPU its allocator raises a RuntimeError with this text. safetensors and pyarrow wrap ENOSPC.
    text = f"{type(error).__name__} {error}"
    if "OutOfMemoryError" in text or "can't allocate memory" in text:
        return MEMORY
    return STORAGE if "No space left on device" in text else ERROR


class Runner(Protocol):
    """What both runtimes offer to run jobs."""

    def run(
        self, function: Callable[..., Any], jobs: deque[tuple[Any, ...]], *, sign: Callable[[tuple[Any, ...]], Path] | None = None
    ) -> Iterator[tuple[tuple[Any, ...], Any]]:
        """Yield (job, result or `Failure`) as jobs end. Who consumes them may append further jobs, for example failed ones again.

        `sign(job)`: a file that the job renews while it works. A worker that leaves it alone for too long hangs: it is ended.
        """


# How often a job is given to another worker after its worker died: that may be the job's fault.
ATTEMPTS = 3
# The same after its machine was lost, which seldom is: preempted machines come and go.
NODE_ATTEMPTS = 10


class Losses:
    """How often jobs lost their workers."""

    def __init__(self) -> None:
        self._count: Counter[tuple[Any, str]] = Counter()

    def again(self, job: Any, failure: Failure) -> str | None:
        """Count a failure of a job. Returns which attempt comes next, in words, if the job is to be given to another worker as it is."""
        attempts = {LOST: ATTEMPTS, NODE: NODE_ATTEMPTS}.get(failure.kind, 0)
        self._count[job, failure.kind] += 1
        done = self._count[job, failure.kind]
        return f"{done + 1} of {attempts}" if done < attempts else None


def map_jobs(runner: Runner, function: Callable[..., Any], jobs: list[tuple[Any, ...]], say: Callable[[str], None]) -> Iterator[tuple[int, Any]]:
    """Yield (index of the job, function(*job)) as jobs finish. A job whose worker or machine was lost is given out again, as often as
    `Losses` says; one that fails otherwise raises `JobFailed`."""
    queue = deque((index, *job) for index, job in enumerate(jobs))
    losses = Losses()
    for (index, *job), result in runner.run(_Indexed(function), queue):
        if not isinstance(result, Failure):
            yield index, result
            continue
        which = f"job {index + 1} of {len(jobs)}"
        if turn := losses.again(index, result):
            say(f"{result.message}; {which} is tried again ({turn})")
            queue.append((index, *job))
        elif result.kind in (LOST, NODE):
            raise JobFailed(f"{which} lost its worker {ATTEMPTS if result.kind == LOST else NODE_ATTEMPTS} times: {result.message}")
        else:
            raise JobFailed(f"{which} failed: {result.message}")


@dataclass(frozen=True)
class _Indexed:
    """A function whose jobs carry their index first."""

    function: Callable[..., Any]

    def __call__(self, index: int, *job: Any) -> Any:
        return self.function(*job)
