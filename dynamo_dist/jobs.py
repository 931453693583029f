"""Jobs and the ways in which they fail."""

import errno
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from dynamo_dist.errors import InputError

LOST, MEMORY, STORAGE, ERROR = "lost worker", "out of memory", "storage", "error"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a job has no result.

    `lost worker`: its process died; `out of memory`: the same job in smaller parts may pass; `storage`: no space, or the folder
    cannot be written; `error`: the job raised an exception, and would again.
    """

    kind: str
    message: str


class JobFailed(RuntimeError):
    """A job that is not to be given up failed for good."""


def attempt(function: Callable[..., Any], job: tuple) -> Any:
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

    def run(self, function: Callable[..., Any], jobs: deque[tuple]) -> Iterator[tuple[tuple, Any]]:
        """Yield (job, result or `Failure`) as jobs end. Who consumes them may append further jobs, for example failed ones again."""


# How often a job is given to another worker after its worker died.
ATTEMPTS = 3


def map_jobs(runner: Runner, function: Callable[..., Any], jobs: list[tuple], say: Callable[[str], None]) -> Iterator[tuple[int, Any]]:
    """Yield (index of the job, function(*job)) as jobs finish. A job whose worker died is given out again, up to `ATTEMPTS` times in
    all; one that fails otherwise raises `JobFailed`."""
    queue = deque((index, *job) for index, job in enumerate(jobs))
    lost = [0] * len(jobs)
    for (index, *job), result in runner.run(_Indexed(function), queue):
        if not isinstance(result, Failure):
            yield index, result
            continue
        if result.kind != LOST:
            raise JobFailed(f"job {index + 1} of {len(jobs)} failed: {result.message}")
        lost[index] += 1
        if lost[index] == ATTEMPTS:
            raise JobFailed(f"job {index + 1} of {len(jobs)} lost its worker {ATTEMPTS} times: {result.message}")
        say(f"a worker died; job {index + 1} of {len(jobs)} is tried again ({lost[index] + 1} of {ATTEMPTS})")
        queue.append((index, *job))


@dataclass(frozen=True)
class _Indexed:
    """A function whose jobs carry their index first."""

    function: Callable[..., Any]

    def __call__(self, index: int, *job: Any) -> Any:
        return self.function(*job)
