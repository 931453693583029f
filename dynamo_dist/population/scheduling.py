"""Training of a whole population: which chunk is next, and what becomes of one that fails.

| what happened | what is done |
| --- | --- |
| worker died, or hung and was ended | the chunk is given to another, `jobs.ATTEMPTS` times in all; then as for an error |
| machine lost | the same, `jobs.NODE_ATTEMPTS` times |
| out of memory | the chunk is halved |
| error | the chunk is halved until the network that causes it is alone; that one is recorded as failed, its neighbours are trained |
| gradient not finite | the network is frozen and recorded, inside the stack; nothing is tried again |
| storage | everything stops; what was committed stays |
| wrong input | everything stops |

Halving changes the stack that a network is trained in, and so its result by rounding; nothing else changes it.
"""

import contextlib
import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from dynamo_dist import storage
from dynamo_dist.errors import InputError
from dynamo_dist.jobs import STORAGE, Failure, JobFailed, Losses, Runner
from dynamo_dist.population.plan import Chunk
from dynamo_dist.population.store import Population
from dynamo_dist.population.work import commit_failure, train_and_commit
from dynamo_dist.progress import duration, follow, say

# Single networks that may fail with an error before any has been trained: then it is not the networks that are wrong.
HOPELESS = 3
# Seconds between two looks at the workers' signs of life on a storage.
FETCH = 30.0
# Seconds between two lines about what was committed.
SPARSE = 2.0


def train_remaining(population: Population, runner: Runner, *, work: Callable[..., str] = train_and_commit) -> None:
    """Train and commit every network that is not recorded yet. Raises `InputError` when storage fails or input is wrong, `JobFailed`
    when nothing can be trained at all. `work`: what a worker does with a chunk."""
    for sentence in population.set_damaged_aside():
        say(sentence)
    chunks = population.remaining()
    if not chunks:
        return
    if population.specs.values("epochs").min() == 0:
        raise InputError(
            f"{storage.address(population.path)}: files of imported networks are damaged, and these are not trained here: import them again"
        )
    path = storage.address(population.path.resolve())
    notes = population.path / "progress"
    notes.mkdir(exist_ok=True)
    storage.fetch(notes)
    for leftover in notes.iterdir():
        storage.remove(leftover)
    count = _Count(
        total=len(population), done=len(population) - sum(c.networks for c in chunks), cost=sum(map(population.plan.cost, chunks))
    )
    say(f"population: {count.total - count.done} of {count.total} networks to train in {storage.address(population.path)}, {len(chunks)} chunks")
    # Longest first, so that the last ones to end are short.
    chunks.sort(key=lambda chunk: -population.plan.cost(chunk))
    queue = deque((path, chunk) for chunk in chunks)
    losses = Losses()
    told = -math.inf
    with follow(lambda: _progress(population, count)):
        for (_, chunk), result in runner.run(work, queue, sign=lambda job: notes / f"{job[1].first}.json"):
            (notes / f"{chunk.first}.json").unlink(missing_ok=True)
            if not isinstance(result, Failure):
                with _writing(population):
                    population.record(result, chunk)
                count.trained += chunk.networks
                count.failed += population.results(result)["failure"].drop_null().length()
                count.finish(chunk.networks, population.plan.cost(chunk))
                # A line for each of thousands of chunks would be no news.
                if count.done == count.total or time.monotonic() - told > SPARSE:
                    say(f"population: {count.done} of {count.total} networks trained and committed")
                    told = time.monotonic()
                continue
            where = f"networks {population.specs.ids[population.plan.order[chunk.first]]!r}, ... ({chunk.networks})"
            if result.kind == STORAGE:
                raise _no_room(population, result.message)
            if turn := losses.again(chunk, result):
                say(f"{result.message}; {where} are tried again ({turn})")
                # At once: at the end, everybody would wait for it (at 1,000 workers that simulates as 5 % of all time).
                queue.appendleft((path, chunk))
                continue
            if chunk.networks > 1:
                say(f"{result.kind}: {where} are tried again in two halves ({result.message})")
                queue.extend((path, half) for half in chunk.halves())
                continue
            count.failed += 1
            if not count.trained and count.failed >= HOPELESS:
                raise JobFailed(f"the first {count.failed} networks failed, the last with {result.kind}: {result.message}")
            with _writing(population):
                population.record(commit_failure(path, chunk, f"{result.kind}: {result.message}"), chunk)
            count.finish(1, population.plan.cost(chunk))
            say(f"population: {where} cannot be trained ({result.kind}: {result.message}); recorded as failed")


def _no_room(population: Population, reason: object) -> InputError:
    return InputError(f"{storage.address(population.path)} cannot be written ({reason}): make room, and continue with --resume")


@contextlib.contextmanager
def _writing(population: Population) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _no_room(population, error) from None


@dataclass
class _Count:
    """What the progress line counts."""

    total: int
    done: int
    # Cost of what this call has to do, and of what it has done.
    cost: float
    finished: float = 0.0
    trained: int = 0
    failed: int = 0
    began: float = field(default_factory=time.monotonic)
    # When the workers' notes were last fetched.
    fetched: float = field(default_factory=time.monotonic)

    def finish(self, networks: int, cost: float) -> None:
        self.done += networks
        self.finished += cost


def _progress(population: Population, count: _Count) -> str:
    """The live line: networks done, running and failed, what runs, examples per second, time left."""
    if time.monotonic() - count.fetched > FETCH:
        count.fetched = time.monotonic()
        storage.fetch(population.path / "progress")
    notes = {path.stem: json.loads(path.read_text()) for path in sorted((population.path / "progress").glob("*.json"))}
    failed = f", {count.failed} failed" if count.failed else ""
    if not notes:
        return f"population: {count.done}/{count.total} done{failed}; workers are starting"
    finished = count.finished + sum(
        population.plan.cost(Chunk(first=int(first), networks=note["networks"])) * note["step"] / note["steps"]
        for first, note in notes.items()
    )
    seconds = time.monotonic() - count.began
    left = f", {duration(seconds * (count.cost - finished) / finished)} left" if finished > 0 else ""
    running = ", ".join(f"{note['label']} step {note['step']}/{note['steps']} loss {note['loss']:.3f}" for note in list(notes.values())[:2])
    more = f", ... ({len(notes)} chunks)" if len(notes) > 2 else ""
    rate = sum(note["rate"] for note in notes.values())
    return f"population: {count.done}/{count.total} done{failed}; {running}{more}; {rate:,.0f} examples/s{left}"
