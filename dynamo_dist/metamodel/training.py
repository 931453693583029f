"""Training of a meta-model by a group of workers, each with a shard of the networks, from checkpoint to checkpoint.

The whole population in one process is the case of one worker: the oracle.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dynamo_dist.commit import read_lines, write_json
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import checkpoint
from dynamo_dist.metamodel.activations import WAYS
from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.folder import METRICS, NOTES, PROGRESS, header
from dynamo_dist.metamodel.interface import Interface
from dynamo_dist.metamodel.shard import Group, Shard, members
from dynamo_dist.metamodel.words import word_vectors
from dynamo_dist.networks.architecture import GATES, Recurrent
from dynamo_dist.population import Population

_METRICS = pa.schema(
    [("step", pa.int64()), ("steps", pa.int64())]
    + [(f"{part}{name}", pa.float64()) for part in ("", "held_out_") for name in ("loss", "hidden", "output")]
    + [("seconds", pa.float64()), ("left", pa.float64())]
)
PRECISIONS = ("float32", "float64", "bfloat16")


class Diverged(RuntimeError):
    """The loss or its gradient is not finite. The last checkpoint is from before that."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One meta-model to train: where its population lies, where it goes, and how. Small: this is what travels to workers."""

    population: str
    out: str
    config: MetaModelConfig
    # float32, float64, or bfloat16: parameters and losses in float32, the recurrence of the meta-model in bfloat16.
    precision: str = "float32"
    # Base activations: auto (what is measured to be faster), recompute or cache.
    activations: str = "auto"
    # Folder for a cache of base activations; "": the one of the meta-model. Whoever starts the training removes it.
    cache: str = ""


def partition(population: Population, ids: Sequence[str], config: MetaModelConfig, workers: int) -> list[tuple[str, ...]]:
    """Networks of every worker, balanced by cost, each in the population's order."""
    if not 1 <= workers <= len(ids):
        raise InputError(f"{workers} workers for {len(ids)} networks: a worker needs at least one network; use fewer workers")
    cost = {id: _cost(population, id, config) for id in ids}
    shards: list[list[str]] = [[] for _ in range(workers)]
    load = [0.0] * workers
    for id in sorted(ids, key=lambda id: -cost[id]):  # stable: ties keep their order
        lightest = load.index(min(load))
        shards[lightest].append(id)
        load[lightest] += cost[id]
    place = {id: index for index, id in enumerate(ids)}
    return [tuple(sorted(shard, key=place.__getitem__)) for shard in shards]


def _cost(population: Population, id: str, config: MetaModelConfig) -> float:
    """Multiply-adds of one step on one input: the meta-model forward and backward, the state map, and the base network forward."""
    spec = population.spec(id)
    data = population.datasets[spec.data]
    base = spec.architecture.operations(data.input_shape)
    if data.kind == "images":
        _, rows, columns = data.input_shape
        return base + 3 * (6 * config.blocks + 1) * 9 * config.hidden**2 * rows * columns
    steps = data.meta.inputs.shape[1]
    width = spec.architecture.state if isinstance(spec.architecture, Recurrent) else config.hidden
    return steps * (base + 3 * GATES["gru"] * config.hidden**2 + 3 * config.hidden * width)


def train_shard(job: TrainingJob, *, group: Group, after_step: Callable[[int], None] = lambda step: None) -> None:
    """Train one worker's shard to the end, from the newest verified checkpoint in `job.out` if there is one.

    Raises `Diverged` before the update that would have used a gradient that is not finite; the last checkpoint stays.
    """
    path, config = Path(job.out), job.config
    if job.precision not in PRECISIONS:
        raise InputError(f"precision={job.precision!r}: expected one of {', '.join(PRECISIONS)}")
    shard = open_shard(job, group)

    # Worker 0 looks, all follow: they must not resume from different steps.
    newest = group.gather(str(checkpoint.newest_verified(path) or ""))[0]
    state = {"step": 0, "best": None, "finished": False}
    if newest:
        state = checkpoint.restore(Path(newest), shard)
    record = path / PROGRESS
    if group.rank == 0 and record.exists():
        kept = [line for line in read_lines(record) if line["step"] <= state["step"]]
        record.write_text("".join(json.dumps(line) + "\n" for line in kept))

    began, start = time.monotonic(), state["step"]
    while not state["finished"]:
        terms = shard.backward(state["step"], group)
        if not bool(torch.isfinite(terms).all()):
            raise Diverged(
                f"the meta-model's loss is not finite at step {state['step']}: nothing was updated; the newest checkpoint in {path} is sound. "
                f"Lower learning_rate={config.learning_rate} and train again"
            )
        shard.update(state["step"])
        state["step"] = done = state["step"] + 1
        line = {}
        if done % config.checkpoint_every == 0 or done == config.steps:
            state, line = _judge(state, config, shard, group)
        if group.rank == 0 and (done % 25 == 0 or line or state["finished"]):
            seconds = time.monotonic() - began
            line = {
                "step": done, "steps": config.steps, **dict(zip(("loss", "hidden", "output"), terms.tolist(), strict=True)), **line,
                "seconds": round(seconds, 3), "left": round(seconds / (done - start) * (config.steps - done), 3),
            }  # fmt: skip
            with open(record, "a") as file:
                file.write(json.dumps(line) + "\n")
        if done % config.checkpoint_every == 0 or state["finished"]:
            _commit(path, state, shard, group)
        after_step(done)


def open_shard(job: TrainingJob, group: Group) -> Shard:
    """This worker's part of the population, ready to train. What is left out is told in `notes.json`."""
    path, config = Path(job.out), job.config
    population = Population(job.population)
    about = header(path)
    ids = population.sound_ids(without=about["skipped_chunks"])
    own = partition(population, ids, config, group.size)[group.rank]
    shard = Shard(
        members(population, own),
        {name: data.meta for name, data in population.datasets.items()},
        Interface(**about["interface"]),
        config,
        dtype=torch.float64 if job.precision == "float64" else torch.float32,
        device=group.device,
        products=torch.bfloat16 if job.precision == "bfloat16" else None,
    )
    if shard.interface.vocabulary and config.word_vectors == "networks":
        shard.dynamics.start_words(word_vectors(population, ids, shard.interface, config))
    reports = [json.loads(text) for text in group.gather(json.dumps({"networks": shard.networks, "excluded": shard.excluded}))]
    shard.networks = sum(report["networks"] for report in reports)
    if not shard.networks:
        raise InputError(f"{population.path}: no network has finite states and outputs on the inputs without labels")
    notes = [f"left out: {sentence}" for report in reports for sentence in report["excluded"]]
    notes += _choose_activations(job, shard, group)
    if group.rank == 0:
        write_json(path / NOTES, notes)
    return shard


def _choose_activations(job: TrainingJob, shard: Shard, group: Group) -> list[str]:
    """How base activations are had, one sentence. Worker 0 measures; all do alike, and so does a resumed run: both ways round
    differently, and a resumed run must end where an undisturbed one does."""
    record = Path(job.out) / "activations.json"
    known = json.loads(record.read_text()) if record.exists() else {"how": job.activations, "why": None}
    if job.activations not in WAYS:
        raise InputError(f"activations={job.activations!r}: expected one of {', '.join(WAYS)}")
    if group.device.type != "cpu" and known["how"] != "recompute":
        known = {"how": "recompute", "why": "base activations recomputed: on a GPU they are not moved there and back"}
    if group.rank == 0:
        chosen, why = shard.choose_activations(known["how"], Path(job.cache or job.out), job.config.steps)
        known = {"how": chosen, "why": known["why"] or why}
        write_json(record, known)
    known = json.loads(group.gather(json.dumps(known))[0])
    if group.rank != 0:
        shard.choose_activations(known["how"], Path(job.cache or job.out), job.config.steps)
    group.gather("")  # the slowest one may be filling its cache: nobody waits for it within a step
    return [known["why"]]


def _judge(state: dict, config: MetaModelConfig, shard: Shard, group: Group) -> tuple[dict, dict]:
    """The state after a checkpoint's look at the held-out inputs, and what the record shows of it."""
    done = state["step"]
    finished = done == config.steps
    if not config.held_out:
        return {**state, "best": {"step": done, "loss": None}, "finished": finished}, {}
    loss, hidden, output = shard.held_out_loss(group)
    best = state["best"]
    if best is None or loss < best["loss"]:
        best = {"step": done, "loss": loss}
    waited = (done - best["step"]) // config.checkpoint_every
    finished = finished or bool(config.patience and waited >= config.patience)
    shown = {"held_out_loss": loss, "held_out_hidden": hidden, "held_out_output": output}
    return {**state, "best": best, "finished": finished}, shown


def _commit(path: Path, state: dict, shard: Shard, group: Group) -> None:
    """Every worker writes its networks into one temporary folder; worker 0 writes what is shared and commits."""
    temporary = Path(group.gather(str(checkpoint.begin(path, state["step"])) if group.rank == 0 else "")[0])
    checkpoint.save_private(temporary, group.rank, shard)
    if group.rank == 0:
        checkpoint.save_shared(temporary, shard)
    group.gather("")  # all have written
    if group.rank == 0:
        checkpoint.finish(temporary, path, {**state, "workers": group.size})
        checkpoint.remove_old(path, keep=state["best"]["step"])
        _write_metrics(path)
    group.gather("")  # nobody goes on before it is committed


def _write_metrics(path: Path) -> None:
    """The record as a table, for those who plot."""
    new = path / f".{METRICS}.new"
    pq.write_table(pa.Table.from_pylist(read_lines(path / PROGRESS), schema=_METRICS), new)
    new.replace(path / METRICS)
