"""The scheduler of a population on clusters of up to 10,000 GPUs, simulated event by event; and checked against real runs.

    python -m cluster.experiments.scheduler_simulation [--check] [--networks 1e8] [--chunk-seconds 600]

What is simulated is `RayRuntime.run` under `train_remaining`: workers come up and pull chunks; one process, the driver, takes their results one
after the other, hands out the next at once, and then takes the result in; a worker or its machine fails at random, its chunk is the next one
again, and another worker takes its place. The costs of all that are measured ones. `--check`: real runs of sleeping chunks, some of which
kill their worker, against their simulation.
"""

import argparse
import functools
import heapq
import math
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.experiments.population_scale import commit_untrained
from cluster.experiments.scheduler_overhead import lay_down
from cluster.experiments.timing import processor
from dynamo_dist.population import work
from dynamo_dist.population.plan import Chunk
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import open_runtime
from dynamo_dist.runtime.ray_runtime import RayRuntime

GPUS = (1, 10, 100, 1_000, 10_000)


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a run costs beside training, in seconds."""

    workers: int
    # From the start of the run until its workers are up, and until one is that takes a failed one's place.
    start: float = 7.0
    restart: float = 7.0
    # Of the driver for every result: one look at all workers, each; the next chunk; the journal and what is recorded.
    look: float = 0.34e-6
    hand_out: float = 1e-3
    driver: float = 2.8e-3
    # Of a worker for every chunk: the commit.
    commit: float = 23e-3
    # Mean time between two failures of one worker, with its machine; and how long until the driver knows.
    between_failures: float = math.inf
    detection: float = 15.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """`seconds` from start to end; `lost`: for each cause the share of all workers' time that was not training."""

    seconds: float
    efficiency: float
    failures: int
    lost: dict[str, float]

    @property
    def bottleneck(self) -> str:
        return max(self.lost, key=lambda cause: self.lost[cause])


def simulate(chunks: Sequence[float], cluster: Cluster, rng: np.random.Generator, dying: frozenset[int] = frozenset()) -> Outcome:
    """Chunks of so many seconds of training each, given out in this order. `dying`: those at these positions kill their worker halfway,
    once, beside what fails at random."""
    queue, doomed = deque(range(len(chunks))), set(dying)
    lost = dict.fromkeys(("workers start", "wait for the driver", "commits", "failures", "the last chunks"), 0.0)
    # What happens next: (when, number, what, the chunk); the number keeps equal times apart.
    events: list[tuple[float, int, str, int]] = []
    number = failures = 0

    def later(when: float, what: str, chunk: int) -> None:
        nonlocal number
        heapq.heappush(events, (when, number, what, chunk))
        number += 1

    for _ in range(min(cluster.workers, len(queue))):
        later(cluster.start, "up", -1)
        lost["workers start"] += cluster.start
    free, end = 0.0, 0.0
    answer = cluster.look * cluster.workers + cluster.hand_out
    # When idle workers became so: they wait for a chunk that fails elsewhere.
    idle: deque[float] = deque()

    def give(when: float) -> None:
        """The driver hands the next chunk to a worker, or has none for it."""
        nonlocal failures
        if not queue:
            idle.append(when)
            return
        chunk = queue.popleft()
        seconds = chunks[chunk] + cluster.commit
        failing = chunks[chunk] / 2 if chunk in doomed else math.inf
        if cluster.between_failures < math.inf:
            failing = min(failing, rng.exponential(cluster.between_failures))
        if failing < seconds:
            failures += 1
            doomed.discard(chunk)
            lost["failures"] += failing + cluster.detection
            later(when + failing + cluster.detection, "failed", chunk)
        else:
            lost["commits"] += cluster.commit
            later(when + seconds, "done", chunk)

    while events:
        when, _, what, chunk = heapq.heappop(events)
        now = max(free, when) + answer
        free = now + (cluster.driver if what == "done" else 0.0)
        lost["wait for the driver"] += now - when
        end = free if what == "done" else end
        if what == "failed":
            queue.appendleft(chunk)
            lost["failures"] += cluster.restart
            later(now + cluster.restart, "up", -1)
            if idle:  # somebody else takes the chunk
                since = idle.popleft()
                lost["the last chunks"] += now - since
                give(now)
        else:
            give(now)
    lost["the last chunks"] += sum(end - since for since in idle if since < end)
    whole = cluster.workers * end
    lost["the last chunks"] += max(0, cluster.workers - len(chunks)) * end
    return Outcome(
        seconds=end,
        efficiency=float(np.sum(chunks)) / whole,
        failures=failures,
        lost={cause: seconds / whole for cause, seconds in lost.items()},
    )


# ---- against reality -------------------------------------------------------------------------------------------------------------


def sleep_or_die(seconds: dict[int, float], deaths: frozenset[int], marks: str, path: str, chunk: Chunk) -> str:
    """The work of a worker, in place of training; some chunks kill it, halfway and once."""
    mark = Path(marks) / str(chunk.first)
    if chunk.first in deaths and not mark.exists():
        time.sleep(seconds[chunk.first] / 2)
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(seconds[chunk.first])
    return commit_untrained(work._open(path), chunk)


def up(seconds: float) -> None:
    time.sleep(seconds)


def check(workers: int, chunks: int, mean: float, deaths: int) -> None:
    """A real run of chunks of random lengths against its simulation, which knows their lengths, which of them kill their worker, and how long
    workers take to start, measured just before: all of them, and one."""
    rng = np.random.default_rng(workers)
    lengths = rng.gamma(4.0, mean / 4, chunks)  # a coefficient of variation of one half
    with tempfile.TemporaryDirectory() as folder:
        population = lay_down(Path(folder) / "population", chunks, workers=workers)
        order = [chunk.first for chunk in sorted(population.remaining(), key=lambda chunk: -population.plan.cost(chunk))]
        seconds = dict(zip(order, lengths.tolist(), strict=True))
        dying = frozenset(rng.choice(order, deaths, replace=False).tolist())
        marks = Path(folder) / "marks"
        marks.mkdir()
        with open_runtime(workers) as runtime:
            start = {}
            for count in (workers, 1):
                began = time.perf_counter()
                for _ in runtime.run(up, deque([(0.0,)] * count)):
                    pass
                start[count] = time.perf_counter() - began
                assert isinstance(runtime, RayRuntime)
                runtime._dismiss()
            began = time.perf_counter()
            train_remaining(population, runtime, work=functools.partial(sleep_or_die, seconds, dying, str(marks)))
            real = time.perf_counter() - began
    cluster = Cluster(workers=workers, start=start[workers], restart=start[1], detection=0.0)
    positions = frozenset(position for position, first in enumerate(order) if first in dying)
    simulated = simulate(lengths.tolist(), cluster, rng, positions).seconds
    print(
        f"{workers} workers, {chunks} chunks of {mean} s, {deaths} deaths, {start[workers]:.1f} s to start and {start[1]:.1f} s again: "
        f"{real:.1f} s, simulated {simulated:.1f} ({100 * (simulated / real - 1):+.1f} %)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.experiments.scheduler_simulation", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="real runs on this machine against their simulation, first")
    parser.add_argument(
        "--networks", type=float, default=1e8, help="networks of the largest cluster; smaller ones get their share; default 1e8"
    )
    parser.add_argument("--chunk-networks", type=int, default=256, help="networks of a chunk; default 256")
    parser.add_argument(
        "--chunk-seconds", type=float, nargs="+", default=[10.0, 60.0, 600.0], help="mean seconds of a chunk; default 10 60 600"
    )
    parser.add_argument("--between-failures", type=float, default=30.0, help="mean days between two failures of one worker; default 30")
    arguments = parser.parse_args()
    if arguments.check:
        print(processor(), flush=True)
        cores = len(os.sched_getaffinity(0))
        for deaths in (0, 4):
            check(cores, 40, 3.0, deaths)
    print(
        "| chunk, s | GPUs | networks | hours | efficiency, % | failures | GPU hours per 1,000 networks | first bottleneck | its share, % |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for mean in arguments.chunk_seconds:
        for gpus in GPUS:
            chunks = math.ceil(arguments.networks / GPUS[-1] * gpus / arguments.chunk_networks)
            rng = np.random.default_rng(gpus)
            lengths = np.sort(rng.gamma(4.0, mean / 4, chunks))[::-1]  # the longest first, as the scheduler has it
            cluster = Cluster(workers=gpus, between_failures=arguments.between_failures * 86_400)
            outcome = simulate(lengths.tolist(), cluster, rng)
            networks = chunks * arguments.chunk_networks
            cost = gpus * outcome.seconds / 3600 / networks * 1000
            print(
                f"| {mean:g} | {gpus:,} | {networks:,} | {outcome.seconds / 3600:.2f} | {100 * outcome.efficiency:.2f} | {outcome.failures} | "
                f"{cost:.3f} | {outcome.bottleneck} | {100 * outcome.lost[outcome.bottleneck]:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
