"""What a worker does for a population: train one chunk, test it, commit it. Paths come in, nothing but a name goes out."""

import contextlib
import math
import time

import torch

from dynamo_dist import storage
from dynamo_dist.networks import stack_class
from dynamo_dist.population.plan import Chunk
from dynamo_dist.population.store import Population, Results
from dynamo_dist.population.training import evaluate, train_chunk
from dynamo_dist.progress import leave, renew

# Seconds between two signs of life on a storage, where each is a request.
SIGN = 60.0

_opened: dict[tuple[str, int], Population] = {}


def _open(path: str) -> Population:
    """The population, read once per process: of a million networks the specifications alone take seconds."""
    header = storage.local(path) / "population.json"
    storage.fetch(header)
    key = (path, header.stat().st_mtime_ns)  # another one may have taken its place
    if key not in _opened:
        _opened.clear()
        _opened[key] = Population(path)
    return _opened[key]


def train_and_commit(path: str, chunk: Chunk) -> str:
    """Train a chunk and commit it to the store; returns its name. Harmless to do twice."""
    population = _open(path)
    specs = population.chunk_specs(chunk)
    name = population.chunk_name(specs)
    if population.is_committed(name):
        return name
    data = population.datasets[specs[0].data]
    output = data.outputs[specs[0].target]
    began, note = time.monotonic(), population.path / "progress" / f"{chunk.first}.json"
    if storage.mirrored(note):
        note.parent.mkdir(exist_ok=True)  # in the mirror of this machine
    label = f"{len(specs)} {specs[0].architecture.label}"
    told = -math.inf

    def show() -> None:
        nonlocal told
        if time.monotonic() - told > SIGN:
            told = time.monotonic()
            with contextlib.suppress(storage.StorageFailed):  # nothing is decided by it
                storage.publish(note)

    def progress(step: int, steps: int, loss: float) -> None:
        examples = step * specs[0].batch * len(specs)
        leave(note, label=label, networks=len(specs), step=step, steps=steps, loss=loss, rate=examples / (time.monotonic() - began))
        show()

    def alive() -> None:
        renew(note)
        show()

    trained = train_chunk(specs, data.base, output, device="cuda" if torch.cuda.is_available() else "cpu", progress=progress)
    # many large networks take minutes for that
    score = evaluate(specs, trained.networks, data.test, output, each=alive)
    classes = output.kind == "classes"
    results = Results(
        loss=trained.loss,
        curve=trained.curve,
        steps=trained.steps,
        accuracy=score if classes else [None] * len(specs),
        r2=[None] * len(specs) if classes else score,
        failed_at=trained.failed_at,
        failure=[f"gradient not finite at step {step}, seed {s.seed}" if step >= 0 else None for step, s in zip(trained.failed_at, specs, strict=True)],
    )
    population.commit(name, specs, trained.networks.to("cpu"), results)
    if storage.mirrored(note):  # elsewhere the command removes it; there it would be busy with that
        with contextlib.suppress(storage.StorageFailed):
            storage.remove(note)
    return name


def commit_failure(path: str, chunk: Chunk, reason: str) -> str:
    """Commit a network that cannot be trained, with its initial parameters and the reason."""
    population = _open(path)
    specs = population.chunk_specs(chunk)
    name, (spec,) = population.chunk_name(specs), specs
    results = Results(loss=[None], curve=[[]], steps=[0], accuracy=[None], r2=[None], failed_at=[0], failure=[reason])
    population.commit(name, specs, stack_class(spec.architecture).initial(spec.architecture, [spec.seed]), results)
    return name
