"""What the scheduler of a population costs: chunks that take a known time, chunks that take none, and one look at many workers.

    python -m cluster.experiments.scheduler_overhead [--chunks 1000] [--seconds 1] [--nothing 10000]

A chunk is one network; its work is so many seconds of sleep. Its commit, which belongs to the training of a chunk, is done before and told
apart. Ray, the journal and the driver's bookkeeping are those of a real run, with two workers. "Overhead": wall time beside
chunks x seconds / workers, from when the workers are up.
"""

import argparse
import functools
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from cluster.experiments.population_scale import commit_untrained, specs
from cluster.experiments.timing import processor
from dynamo_dist.data.valence import ValenceTask, make_valence
from dynamo_dist.population import Population, work
from dynamo_dist.population.plan import Chunk
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import open_runtime

WORKERS = 2
# References in one `ray.wait`: one for each worker.
LOOKS = (2, 100, 1_000, 10_000)


def sleep(seconds: float, path: str, chunk: Chunk) -> str:
    """The work of a worker; returns the chunk's name, as training does."""
    time.sleep(seconds)
    population = work._open(path)
    return population.chunk_name(population.chunk_specs(chunk))


def lay_down(folder: Path, chunks: int, *, workers: int) -> Population:
    data = make_valence(ValenceTask(base=128, meta=16, test=16))
    return Population.create(folder, specs(chunks), data, workers=workers, bytes_per_network=lambda spec, data: 10**9)


def train(chunks: int, seconds: float) -> tuple[float, float]:
    """Wall seconds of the whole population, from when the workers are up and know it, and seconds of one commit."""
    with tempfile.TemporaryDirectory() as folder, open_runtime(WORKERS) as runtime:
        population = lay_down(Path(folder) / "population", chunks, workers=WORKERS)
        began = time.perf_counter()
        for chunk in population.remaining():
            commit_untrained(population, chunk)
        commit = (time.perf_counter() - began) / chunks
        path = str(population.path.resolve())
        for _ in runtime.run(work._open, deque([(path,)] * WORKERS)):
            pass
        began = time.perf_counter()
        train_remaining(population, runtime, work=functools.partial(sleep, seconds))
        return time.perf_counter() - began, commit


def look_at(references: int) -> float:
    """Seconds of a `ray.wait` over so many calls, one of which is ready."""
    import ray

    class Busy:
        def wait(self, seconds: float) -> None:
            time.sleep(seconds)

    busy: Any = ray.remote(num_cpus=1)(Busy).remote()  # Ray's stubs know no methods of actors but decorated ones
    calls = [busy.wait.remote(seconds) for seconds in (0, *[3600] * (references - 1))]
    ray.get(calls[0])
    times = []
    for _ in range(20):
        began = time.perf_counter()
        ray.wait(calls, num_returns=1)
        times.append(time.perf_counter() - began)
    ray.kill(busy)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.experiments.scheduler_overhead", description=__doc__.partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=1_000, help="chunks that sleep; default 1000")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each of them sleeps; default 1")
    parser.add_argument("--nothing", type=int, default=10_000, help="chunks that do nothing; default 10000")
    arguments = parser.parse_args()
    print(f"{WORKERS} workers, {processor()}", flush=True)
    for chunks, seconds in ((arguments.chunks, arguments.seconds), (arguments.nothing, 0.0)):
        if chunks:
            wall, commit = train(chunks, seconds)
            least = chunks * seconds / WORKERS
            overhead = f", overhead {100 * (wall / least - 1):.2f} %" if seconds else f", {1e3 * wall / chunks:.2f} ms each"
            print(f"{chunks} chunks of {seconds} s: {wall:.1f} s{overhead}; a commit takes {1e3 * commit:.1f} ms beside", flush=True)
    with open_runtime(1):
        for references in LOOKS:
            print(f"a look at {references} calls: {1e3 * look_at(references):.2f} ms", flush=True)


if __name__ == "__main__":
    main()
