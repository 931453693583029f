"""Training of a meta-model by a group of workers, each with a shard of the networks, from checkpoint to checkpoint.

The whole population in one process is the case of one worker: the oracle.
"""

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from dynamo_dist import storage
from dynamo_dist.commit import append_line, read_lines, temporary_beside, write_json
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import checkpoint
from dynamo_dist.metamodel.activations import WAYS
from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.folder import METRICS, NOTES, PROGRESS, header, record
from dynamo_dist.metamodel.interface import Interface
from dynamo_dist.metamodel.recurrent import RecurrentDynamics
from dynamo_dist.metamodel.shard import Group, Shard, members
from dynamo_dist.metamodel.splitting import own_part
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
    """The loss, the parameters or the held-out loss are not finite. The last checkpoint is from before that."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """One meta-model to train: where its population lies, where it goes (paths or URIs), and how. Small: this is what travels to workers."""

    population: str
    out: str
    config: MetaModelConfig
    # float32, float64, or bfloat16: parameters and losses in float32, the recurrence of the meta-model in bfloat16.
    precision: str = "float32"
    # Base activations: auto (what is measured to be faster), recompute or cache.
    activations: str = "auto"
    # What is shared is split over the workers, parameters, gradients and moments, for a meta-model that does not fit on each.
    fully_shard: bool = False
    # Folder for a cache of base activations; "": the one of the meta-model. Whoever starts the training removes it.
    cache: str = ""

    @property
    def path(self) -> Path:
        """The folder of the meta-model, on this machine."""
        return storage.local(self.out)

    @property
    def cache_path(self) -> Path:
        folder = storage.local(self.cache or self.out)
        return folder / ".activations" if storage.mirrored(folder) else folder

    def forget_cache(self) -> None:
        """Remove what a worker cached on this machine for a meta-model that lies on a storage; elsewhere whoever starts the training does."""
        if storage.mirrored(self.path):
            shutil.rmtree(self.cache_path, ignore_errors=True)

    def __post_init__(self) -> None:
        for field, choices in (("precision", PRECISIONS), ("activations", WAYS)):
            if getattr(self, field) not in choices:
                raise InputError(f"{field}={getattr(self, field)!r}: expected one of {', '.join(choices)}")
        if self.activations == "cache" and self.config.mix_states:
            raise InputError("activations='cache': with mix_states=True every step mixes states anew, so none can be kept; leave it out")


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

    Raises `Diverged` before the update that would have used a loss that is not finite, and before a checkpoint of parameters or of a
    held-out loss that are not; the last checkpoint stays. Every worker raises it, and every `InputError`, at the same place.
    """
    path, config = job.path, job.config
    _together(group, lambda: storage.fetch(path))
    shard = open_shard(job, group)
    state = _resume(job, shard, group)

    began, start = time.monotonic(), state["step"]
    while not state["finished"]:
        terms = shard.backward(state["step"], group)
        if not bool(torch.isfinite(terms).all()):
            raise _diverged(job, f"loss is not finite at step {state['step']}")
        shard.update(state["step"])
        state["step"] = done = state["step"] + 1
        line: dict[str, Any] = {}
        if done % config.checkpoint_every == 0 or done == config.steps:
            _check_parameters(job, shard, done, group)
            state, line = _judge(state, job, shard, group)
        if group.rank == 0 and (done % 25 == 0 or line or state["finished"]):
            seconds = time.monotonic() - began
            line = {
                "step": done, "steps": config.steps, **dict(zip(("loss", "hidden", "output"), terms.tolist(), strict=True)), **line,
                "seconds": round(seconds, 3), "left": round(seconds / (done - start) * (config.steps - done), 3),
            }  # fmt: skip
            append_line(record(path), line)
        if done % config.checkpoint_every == 0 or state["finished"]:
            _commit(job, state, shard, group)
        after_step(done)


def open_shard(job: TrainingJob, group: Group) -> Shard:
    """This worker's part of the population, ready to train. What is left out is told in `notes.json`."""
    path, config = job.path, job.config
    population = _together(group, lambda: Population(job.population))
    about = header(path)
    ids = _together(group, lambda: population.sound_ids(without=about["skipped_chunks"]))
    own = partition(population, ids, config, group.size)[group.rank]

    def build() -> Shard:
        shard = Shard(
            members(population, own),
            {name: data.meta for name, data in population.datasets.items()},
            Interface(**about["interface"]),
            config,
            dtype=torch.float64 if job.precision == "float64" else torch.float32,
            device=group.device,
            products=torch.bfloat16 if job.precision == "bfloat16" else None,
        )
        if isinstance(shard.dynamics, RecurrentDynamics) and shard.interface.vocabulary and config.word_vectors == "networks":
            shard.dynamics.start_words(word_vectors(population, ids, shard.interface, config))
        return shard

    shard = _together(group, build)
    reports = [json.loads(text) for text in group.gather(json.dumps({"networks": shard.networks, "excluded": shard.excluded}))]
    shard.networks = sum(report["networks"] for report in reports)
    if not shard.networks:
        raise InputError(f"{storage.address(population.path)}: no network has finite states and outputs on the inputs without labels")
    if not all(report["networks"] for report in reports):
        raise InputError(
            f"{storage.address(population.path)}: a worker of {group.size} has only networks whose states or outputs are not finite numbers; "
            "use fewer workers"
        )
    if job.fully_shard:
        shard.split_shared(group)
    notes = [f"left out: {sentence}" for report in reports for sentence in report["excluded"]]
    notes += _choose_activations(job, shard, group)
    if group.rank == 0:
        write_json(path / NOTES, notes)
    return shard


T = TypeVar("T")


def _together(group: Group, work: Callable[[], T]) -> T:
    """What `work` returns. An `InputError` of one worker is raised by all: the others would wait for it until they time out."""
    wrong = ""
    try:
        result = work()
    except InputError as error:
        wrong = str(error)
    for text in group.gather(wrong):
        if text:
            raise InputError(text)
    return result


def _choose_activations(job: TrainingJob, shard: Shard, group: Group) -> list[str]:
    """How base activations are had, one sentence. Worker 0 measures; all do alike, and so does a resumed run: both ways round
    differently, and a resumed run must end where an undisturbed one does."""
    kept = job.path / "activations.json"
    known: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"how": job.activations, "why": None}
    if group.device.type != "cpu" and known["how"] != "recompute":
        known = {"how": "recompute", "why": "base activations recomputed: on a GPU they are not moved there and back"}

    if job.config.mix_states:
        known = {"how": "recompute", "why": "base activations recomputed: every step mixes their states anew"}

    def choose() -> tuple[str, str]:
        return shard.choose_activations(known["how"], job.cache_path, job.config.steps)

    chosen = _together(group, lambda: choose() if group.rank == 0 else None)
    if chosen is not None:
        known = {"how": chosen[0], "why": known["why"] or chosen[1]}
        write_json(kept, known)
    known = json.loads(group.gather(json.dumps(known))[0])
    # The slowest one may be filling its cache: nobody waits for it within a step.
    _together(group, lambda: choose() if group.rank != 0 else None)
    return [known["why"]]


def _resume(job: TrainingJob, shard: Shard, group: Group) -> dict[str, Any]:
    """Put the newest verified checkpoint into the shard, if there is one, and make the folder fit it; returns where training stands."""
    path = job.path
    # Worker 0 looks, all follow: they must not resume from different steps.
    found = checkpoint.newest_verified(path) if group.rank == 0 else None
    name = group.gather(found.name if found else "")[0]
    newest = path / name if name else None
    state: dict[str, Any] = checkpoint.read_state(newest) if newest else {"step": 0, "best": None, "finished": False}
    if newest:
        if state["precision"] != job.precision:
            raise InputError(f"{job.out} was trained with precision {state['precision']}: continue it with that, not with {job.precision}")
        checkpoint.restore(newest, shard, state["step"])
    if group.rank == 0:
        checkpoint.remove_leftovers(path)
        if (path / PROGRESS).exists():
            _forget_steps_after(path, state["step"])
            _write_metrics(path)
        else:
            record(path).unlink(missing_ok=True)
    best_is_lost = newest and checkpoint.damage_at(path, state["best"]["step"]) is not None
    if group.gather(str(best_is_lost) if group.rank == 0 else "")[0] == "True":
        # Nothing can bring it back but training from the start: the one that is here takes its place.
        judged, _ = _judge({**state, "best": None}, job, shard, group)
        state = {**judged, "finished": state["finished"]}
        _commit(job, state, shard, group)
    return state


def _forget_steps_after(path: Path, step: int) -> None:
    """They are done again. A reader sees the old record or the new one."""
    new = path / f".{PROGRESS}.tmp"
    new.write_text("".join(json.dumps(line) + "\n" for line in read_lines(path / PROGRESS) if line["step"] <= step))
    new.replace(record(path))


def _diverged(job: TrainingJob, what: str) -> Diverged:
    newest = checkpoint.newest_verified(job.path)
    kept = f"keeps the checkpoint {newest.name}" if newest else "has no checkpoint yet"
    return Diverged(
        f"the meta-model's {what}; {job.out} {kept}: train it again in a new folder with a learning_rate below {job.config.learning_rate}"
    )


def _check_parameters(job: TrainingJob, shard: Shard, done: int, group: Group) -> None:
    """Raise `Diverged` where a finite loss had a gradient that was not: the next loss would show it, but a checkpoint comes first."""
    finite = all(bool(torch.isfinite(own_part(parameter)).all()) for parameter in (*shard.shared, *shard.own))
    if "False" in group.gather(str(finite)):
        raise _diverged(job, f"parameters are not finite after step {done}")


def _judge(
    state: dict[str, Any], job: TrainingJob, shard: Shard, group: Group
) -> tuple[dict[str, Any], dict[str, float]]:
    """The state after a checkpoint's look at the held-out inputs, and what the record shows of it."""
    done, config = state["step"], job.config
    finished = done == config.steps
    if not config.held_out:
        return {**state, "best": {"step": done, "loss": None}, "finished": finished}, {}
    loss, hidden, output = shard.held_out_loss(group)
    if not math.isfinite(loss):
        raise _diverged(job, f"held-out loss is not finite after step {done}")
    best = state["best"]
    if best is None or loss < best["loss"]:
        best = {"step": done, "loss": loss}
    waited = (done - best["step"]) // config.checkpoint_every
    finished = finished or bool(config.patience and waited >= config.patience)
    shown = {"held_out_loss": loss, "held_out_hidden": hidden, "held_out_output": output}
    return {**state, "best": best, "finished": finished}, shown


def _commit(job: TrainingJob, state: dict[str, Any], shard: Shard, group: Group) -> None:
    """Every worker writes its networks into one temporary folder; worker 0 writes what is shared and commits."""
    path, step, leads = job.path, state["step"], group.rank == 0
    temporary = Path(group.gather(str(checkpoint.begin(path, step)) if leads else "")[0])
    elsewhere = storage.mirrored(path)
    if elsewhere and not leads:  # in the mirror of its own machine
        temporary = temporary_beside(checkpoint.step_path(path, step))
    checkpoint.save_private(temporary, group.rank, shard)
    checkpoint.save_shared(temporary, group.rank, shard)
    others: dict[str, Any] = {}
    if elsewhere:
        entries = _together(group, lambda: {} if leads else checkpoint.hand_over(temporary, path, step))
        for text in group.gather(json.dumps(entries)):
            others |= json.loads(text)
    else:
        group.gather("")  # all have written

    def finish() -> None:
        # Before the commit: when the last one is there, so is all that belongs to it.
        _write_metrics(path)
        storage.publish(path / PROGRESS, source=record(path))
        checkpoint.finish(temporary, path, {**state, "workers": group.size, "precision": job.precision}, others)
        checkpoint.remove_old(path, keep=state["best"]["step"])

    _together(group, lambda: finish() if leads else None)  # nobody goes on before it is committed


def _write_metrics(path: Path) -> None:
    """The record as a table, for those who plot."""
    new = path / f".{METRICS}.tmp"
    pq.write_table(pa.Table.from_pylist(read_lines(record(path)), schema=_METRICS), new)
    new.replace(path / METRICS)
    storage.publish(path / METRICS)
