"""Two Ray actors against one, on the same population: networks per second, and the time that is not training.

    python -m cluster.experiments.two_actors [--seconds 60]

The population is GRU-64 on word valence, in chunks of one size. Its number of chunks is chosen from the measured time of one step so that
one actor works about so many seconds. Counted from when the actors are up to the last commit; Ray's start and stop are told apart. Time
outside training steps (data, scoring on the test part, commits, waiting) is told as a share of the actors' time.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from cluster.experiments.timing import processor
from dynamo_dist.allocator import keep_memory
from dynamo_dist.data.valence import ValenceTask, make_valence
from dynamo_dist.population import Population, work
from dynamo_dist.population.groups import Group, specs_of
from dynamo_dist.population.plan import Chunk
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.population.training import ChunkTraining, evaluate
from dynamo_dist.runtime import open_runtime

NETWORKS, BATCH = 16, 32


def timed_work(path: str, chunk: Chunk) -> str:
    """`train_and_commit`, and beside the chunk how many seconds its steps took, and its scoring on the test part."""
    seconds = {"steps": 0.0, "test": 0.0}

    def counted(function: Callable[..., Any], part: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                seconds[part] += time.perf_counter() - began

        return call

    step, score = counted(ChunkTraining.step, "steps"), counted(evaluate, "test")
    with patch.object(ChunkTraining, "step", step), patch.object(work, "evaluate", score):
        name = work.train_and_commit(path, chunk)
    (Path(path).parent / f"seconds-{name}.json").write_text(json.dumps(seconds))
    return name


def up(seconds: float) -> float:
    """A job that tells when its actor works."""
    time.sleep(seconds)
    return time.time()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.experiments.two_actors", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="about how long one actor works; default 60")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    keep_memory()
    data = make_valence(ValenceTask(base=6_400, meta=64, test=500))
    group = Group(
        name="gru-64", networks=NETWORKS, target="perfect", training={"batch": BATCH, "epochs": 2},
        architecture={"family": "recurrent", "cell": "gru", "hidden": 64},
    )  # fmt: skip
    specs = list(specs_of([group], data))
    trial = ChunkTraining(specs, data.base, data.outputs["perfect"])
    trial.step(0)
    began = time.perf_counter()
    for number in range(1, 11):
        trial.step(number)
    chunk_seconds = (time.perf_counter() - began) / 10 * specs[0].steps
    chunks = max(4, 2 * round(seconds / chunk_seconds / 2))
    specs = list(specs_of([dataclasses.replace(group, networks=NETWORKS * chunks)], data))
    print(f"{chunks} chunks of {NETWORKS} GRU-64, {specs[0].steps} steps each; torch {torch.__version__}, {processor()}", flush=True)
    rate = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "population"
            population = Population.create(path, specs, data, workers=workers, bytes_per_network=lambda spec, data: 10**9 // NETWORKS)
            start = time.time()
            with open_runtime(workers) as runtime:
                for _ in runtime.run(up, deque([(0.5,)] * workers)):
                    pass
                ready = time.time()
                train_remaining(population, runtime, work=timed_work)
                end = time.time()
            stop = time.time()
            parts = [json.loads(file.read_text()) for file in Path(folder).glob("seconds-*.json")]
        available = workers * (end - ready)
        steps, test = (sum(part[name] for part in parts) / available for name in ("steps", "test"))
        rate[workers] = len(specs) / (end - ready)
        print(
            f"{workers} actors: {rate[workers]:.2f} networks/s, {end - ready:.1f} s; of the actors' time {100 * (1 - steps):.1f} % outside "
            f"training steps, {100 * test:.1f} % of it for the test part; Ray's start {ready - start:.1f} s and stop {stop - end:.1f} s beside",
            flush=True,
        )
    print(f"two against one: {rate[2] / rate[1]:.2f}")


if __name__ == "__main__":
    main()
