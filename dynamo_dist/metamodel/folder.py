"""The folder of a meta-model.

meta/
  meta.json          format, config, where its population lies, how many networks it is of, chunks that are left out
  notes.json         what was left out in training and how base activations are had, one sentence each
  progress.jsonl     losses along training; metrics.parquet: the same as a table. On a storage as of the newest checkpoint
  step-<n>/          checkpoints (see `checkpoint.py`)
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynamo_dist import storage
from dynamo_dist.commit import Corrupted, understood, write_json
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import checkpoint
from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.interface import Interface
from dynamo_dist.population import Population
from dynamo_dist.progress import say

FORMAT = 2
NOTES, PROGRESS, METRICS = "notes.json", "progress.jsonl", "metrics.parquet"


def header(path: Path) -> dict[str, Any]:
    """What `meta.json` holds. Raises `InputError` when there is none."""
    if not (path / "meta.json").exists():
        raise InputError(f"{storage.address(path)} holds no meta-model (no meta.json there); give the folder that training wrote")
    with understood(path / "meta.json"):
        found: dict[str, Any] = json.loads((path / "meta.json").read_text())
        if found["format"] != FORMAT:
            raise InputError(
                f"{path} has meta-model format {found['format']}, and this version reads {FORMAT}: train it again in a new folder"
            )
        return found


def record(path: Path) -> Path:
    """The record of a training that goes on, a line at a time. In a mirror it is not the published one, which may be fetched meanwhile."""
    return path / (f".{PROGRESS}" if storage.mirrored(path) else PROGRESS)


def config_of(path: Path) -> MetaModelConfig:
    with understood(path / "meta.json"):
        return MetaModelConfig(**header(path)["config"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sound:
    """The networks of a population that a meta-model can emulate, and the names of the chunks that are left out, because damaged."""

    ids: tuple[str, ...]
    skipped_chunks: tuple[str, ...]


def sound_networks(population: Population, *, skip_failed: bool = False) -> Sound:
    """The networks that a meta-model can emulate.

    Networks that failed in training are left out always; what is missing or damaged only with `skip_failed`. Otherwise `InputError`
    names it. Every file is verified.
    """
    damaged = population.damaged()
    missing = len(population) - sum(chunk.networks for chunk in population.committed().values())
    if not skip_failed:
        if missing:
            raise InputError(
                f"{storage.address(population.path)}: {missing} of {len(population)} networks are not trained yet; continue the population with --resume, or "
                "leave them out with --skip-failed"
            )
        if damaged:
            raise Corrupted(f"{next(iter(damaged.values()))}; train the population again with --resume, or leave it out with --skip-failed")
    ids = population.sound_ids(without=damaged)
    if not ids:
        raise InputError(f"{population.path} holds no network that was trained to its end: there is nothing to embed")
    if len(ids) < len(population):
        say(f"meta-model: {len(population) - len(ids)} of {len(population)} networks are left out (failed, missing or damaged)")
    for wrong in damaged.values():
        say(f"meta-model: left out: {wrong}")
    return Sound(ids=ids, skipped_chunks=tuple(sorted(damaged)))


def interface_of(population: Population, ids: Sequence[str], config: MetaModelConfig) -> Interface:
    """What the meta-model of these networks reads and answers. Raises `InputError` where they do not fit together."""
    specs = [(id, population.spec(id)) for id in ids]
    used = {spec.data for _, spec in specs}
    datasets = {name: data for name, data in population.datasets.items() if name in used}
    return Interface.of(datasets, [(id, datasets[spec.data].outputs[spec.target]) for id, spec in specs], config)


def _relative(population: Path, path: Path) -> str:
    """How a meta-model names its population: relative, so that both may be moved, where they lie together."""
    return os.path.relpath(population, path) if storage.together(population, path) else storage.address(population)


def new_header(path: Path, population: Population, config: MetaModelConfig, sound: Sound) -> dict[str, Any]:
    """What `meta.json` of a meta-model of these networks is to hold. Raises `InputError` where they do not fit together."""
    return {
        "format": FORMAT,
        "config": dataclasses.asdict(config),
        "population": _relative(population.path.resolve(), path.resolve()),
        "networks": len(sound.ids),
        "skipped_chunks": list(sound.skipped_chunks),
        "interface": dataclasses.asdict(interface_of(population, sound.ids, config)),
    }


def check(path: Path, own: dict[str, Any]) -> bool:
    """Whether the folder is that of the meta-model with this header already. Raises `InputError` when it is that of another one."""
    storage.fetch(path / "meta.json")
    if not (path / "meta.json").exists():
        return False
    if header(path) != own:
        raise InputError(
            f"{storage.address(path)} holds a meta-model of another configuration, or of another population or other networks of it; choose another folder"
        )
    return True


def prepare(path: Path, population: Population, config: MetaModelConfig, sound: Sound | None = None) -> None:
    """Lay down the folder of a meta-model to be trained, or accept the one that is there if it is the same; `sound`: its networks, by
    default all that were trained to their end. Raises `InputError` for a population that it cannot emulate."""
    own = new_header(path, population, config, sound or sound_networks(population))
    storage.fetch(path)
    if not check(path, own):
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "meta.json", own)


def is_finished(path: Path) -> bool:
    """Whether a prepared folder holds a verified checkpoint of the end of its training."""
    newest = checkpoint.newest_verified(path)
    return newest is not None and checkpoint.read_state(newest)["finished"]


def is_whole(path: Path) -> bool:
    """Whether training has ended, and the checkpoint that is opened is what was committed."""
    return is_finished(path) and checkpoint.damage_at(path, _best_step(path)) is None


def final_checkpoint(path: Path) -> Path:
    """The checkpoint of a finished meta-model that did best on the held-out inputs, verified. Raises `Corrupted` when it is damaged."""
    step = _best_step(path)
    wrong = checkpoint.damage_at(path, step)
    if wrong:
        raise Corrupted(f"{wrong}; train the meta-model again with --resume: its newest checkpoint then takes the place of this one")
    return checkpoint.step_path(path, step)


def _best_step(path: Path) -> int:
    newest = checkpoint.newest_verified(path)
    assert newest is not None, "training has ended, at a checkpoint"
    step: int = checkpoint.read_state(newest)["best"]["step"]
    return step
