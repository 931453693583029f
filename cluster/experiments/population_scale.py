"""A population of a million networks: planned, listed, and resumed when almost all of it is done.

    python -m cluster.experiments.population_scale [--networks N] [--folder DIR]

Nothing is trained: the networks that count as done are committed as they start, one GRU-1 each, through the same commits and journal as
trained ones. What is measured is the bookkeeping: seconds and largest resident size of every part, each in a process of its own.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cluster.experiments.timing import processor
from dynamo_dist.data.valence import ValenceTask, make_valence
from dynamo_dist.networks import Recurrent, stack_class
from dynamo_dist.population import NetworkSpec, Population
from dynamo_dist.population.plan import Chunk
from dynamo_dist.population.store import Results

LEFT = 1_000
GROUPS = 10


def specs(networks: int) -> Iterator[NetworkSpec]:
    for number in range(networks):
        group = number % GROUPS
        yield NetworkSpec(
            id=f"network {number}", group=f"group {group}", computation="perfect", target="perfect", seed=number, samples=64, batch=32,
            architecture=Recurrent(cell="gru", hidden=1, features=1 + group, vocabulary=6, outputs=2),
        )  # fmt: skip


def plan(folder: Path, networks: int) -> str:
    population = Population.create(folder, specs(networks), make_valence(ValenceTask(base=128, meta=16, test=16)), workers=2)
    return f"{len(population.plan)} chunks"


def commit_untrained(population: Population, chunk: Chunk) -> str:
    """Commit the networks of a chunk as they start."""
    members = population.chunk_specs(chunk)
    name, architecture, count = population.chunk_name(members), members[0].architecture, chunk.networks
    results = Results(
        loss=[None] * count, curve=[[]] * count, steps=[0] * count, accuracy=[None] * count, r2=[None] * count, failed_at=[-1] * count,
        failure=[None] * count,
    )  # fmt: skip
    population.commit(name, members, stack_class(architecture).initial(architecture, [spec.seed for spec in members]), results)
    return name


def complete(folder: Path, networks: int) -> str:
    """Commit all but the last `LEFT` networks."""
    population = Population(folder)
    done = 0
    for chunk in population.remaining():
        if done + chunk.networks > networks - LEFT:
            continue
        population.record(commit_untrained(population, chunk), chunk)
        done += chunk.networks
    return f"{done} networks committed"


def resume(folder: Path, networks: int) -> str:
    """What `--resume` does before the first worker starts: the same population again, every commit verified, what remains."""
    population = Population.create(folder, specs(networks), make_valence(ValenceTask(base=128, meta=16, test=16)), workers=2)
    damaged, chunks = population.set_damaged_aside(), population.remaining()
    first = population.chunk_specs(chunks[0])
    return (
        f"{sum(chunk.networks for chunk in chunks)} networks remain in {len(chunks)} chunks, {len(damaged)} damaged, next {first[0].id!r}"
    )


def listing(folder: Path, networks: int) -> str:
    table = Population(folder).table()
    return f"{table.num_rows} rows, {table.num_columns} columns"


PARTS = {"plan": plan, "complete": complete, "resume": resume, "list": listing}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m cluster.experiments.population_scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where the population goes; default: a temporary folder, removed at the end")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        began = time.perf_counter()
        told = PARTS[arguments.part](arguments.folder, arguments.networks)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{arguments.part:<9} {time.perf_counter() - began:6.1f} s {memory:6.0f} MB  {told}", flush=True)
        return
    print(f"{arguments.networks:,} networks, {processor()}; 'complete' stands for the training", flush=True)
    parent = Path(tempfile.mkdtemp(prefix="population-scale-")) if arguments.folder is None else arguments.folder
    try:
        for part in PARTS:
            command = [sys.executable, "-m", "cluster.experiments.population_scale", "--part", part]
            subprocess.run([*command, "--networks", str(arguments.networks), "--folder", str(parent / "population")], check=True)
    finally:
        if arguments.folder is None:
            shutil.rmtree(parent, ignore_errors=True)


if __name__ == "__main__":
    main()
