"""Checkpoints of a meta-model: one folder per step, committed whole.

    step-000500/
      shared.safetensors      F~, G~, initial state, and their optimiser moments (`mean.`, `square.` before the name)
      networks-<r>.safetensors  theta, V and moments of the networks of one worker, one tensor per network: `<name>/<network id>`
      state.json              step, best step so far and its held-out loss, whether training has ended, workers, precision
      manifest.json           sizes and SHA-256

What is private is keyed by network id, so another number of workers can read it. On a storage (see `storage`) every worker takes its own
file there; the manifest follows when all have.
"""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dynamo_dist import storage
from dynamo_dist.commit import MANIFEST, damage, discard, entry, seal, temporary_beside, understood
from dynamo_dist.metamodel.shard import Shard
from dynamo_dist.metamodel.splitting import like, whole

KEPT = 2


def step_path(path: Path, step: int) -> Path:
    return path / f"step-{step:08d}"


def committed_steps(path: Path) -> list[int]:
    """Steps that have a committed checkpoint, ascending."""
    if not path.exists():
        return []
    found = (re.fullmatch(r"step-(\d+)", entry.name) for entry in path.iterdir() if (entry / MANIFEST).exists())
    return sorted(int(match[1]) for match in found if match)


def newest_verified(path: Path) -> Path | None:
    """The newest checkpoint whose files are what was committed; a damaged one is passed over for the one before."""
    return next((step_path(path, step) for step in reversed(committed_steps(path)) if damage_at(path, step) is None), None)


def damage_at(path: Path, step: int) -> str | None:
    """What is wrong with the checkpoint of a step; None when every file is what was committed."""
    return damage(step_path(path, step))


def read_state(folder: Path) -> dict[str, Any]:
    """What `state.json` of a checkpoint holds."""
    with understood(folder / "state.json"):
        state: dict[str, Any] = json.loads((folder / "state.json").read_text())
        if not (isinstance(state["finished"], bool) and isinstance(state["best"]["step"], int)):
            raise ValueError("it does not tell which checkpoint is the best one")
        return state


def remove_old(path: Path, *, keep: int) -> None:
    """Keep the newest `KEPT` checkpoints and the one of step `keep`."""
    for step in committed_steps(path)[:-KEPT]:
        if step != keep:
            _remove(step_path(path, step))


def remove_leftovers(path: Path) -> None:
    """Clear away what killed writers left. Nobody may be writing."""
    for leftover in path.glob(".*.tmp"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _remove(folder: Path) -> None:
    """Remove a checkpoint whole or not at all."""
    if storage.mirrored(folder):
        storage.remove(folder, first=MANIFEST)
    discard(folder)


def begin(path: Path, step: int) -> Path:
    """A temporary folder that becomes the checkpoint of a step."""
    if storage.mirrored(path):
        _remove(step_path(path, step))  # what a killed writer, or other workers, left of it
    return temporary_beside(step_path(path, step))


def hand_over(temporary: Path, path: Path, step: int) -> dict[str, Any]:
    """On a storage: take what this worker wrote there, and return its entries for the manifest. Its machine may be another one than that
    of the worker that commits."""
    entries = {}
    for file in sorted(temporary.glob("*.safetensors")):
        entries[file.name] = entry(file)
        storage.publish(step_path(path, step) / file.name, source=file)
    shutil.rmtree(temporary)
    return entries


def finish(temporary: Path, path: Path, state: dict[str, Any], others: dict[str, Any]) -> None:
    """Commit the checkpoint of the step that `state` tells; `others`: as for `seal`."""
    (temporary / "state.json").write_text(json.dumps(state))
    final = step_path(path, state["step"])
    if final.exists() and not storage.mirrored(path):  # a damaged one that was passed over at the start
        _remove(final)
    seal(temporary, final, others)


def _moments(shard: Shard, parameter: Tensor) -> dict[str, Tensor]:
    state = next((optimiser.state[parameter] for optimiser in shard.optimisers if parameter in optimiser.state), None)
    return {"mean": state["exp_avg"], "square": state["exp_avg_sq"]} if state else {}


def save_shared(folder: Path, rank: int, shard: Shard) -> None:
    """Worker 0 writes; where what is shared is split, all must come here."""
    if rank != 0 and not shard.split:
        return
    tensors = {}
    for name, parameter in shard.dynamics.named_parameters():
        tensors[name] = whole(parameter.detach())
        tensors.update({f"{kind}.{name}": whole(moment) for kind, moment in _moments(shard, parameter).items()})
    if rank == 0:
        save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "shared.safetensors")


def save_private(folder: Path, rank: int, shard: Shard) -> None:
    tensors = {}
    for name, parameter, ids in shard.private.rows():
        stacked = {name: parameter.detach()}
        stacked.update({f"{kind}.{name}": moment for kind, moment in _moments(shard, parameter).items()})
        for key, rows in stacked.items():
            tensors.update({f"{key}/{id}": row.contiguous() for id, row in zip(ids, rows.cpu(), strict=True)})
    save_file(tensors, folder / f"networks-{rank:05d}.safetensors")


def read_shared(folder: Path) -> dict[str, Tensor]:
    path = folder / "shared.safetensors"
    with understood(path), safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def read_private(folder: Path, ids: Iterable[str] | None = None) -> dict[str, Tensor]:
    """Private tensors of these networks or of all, by `<name>/<network id>`, whichever worker wrote them."""
    wanted, tensors = None if ids is None else set(ids), {}
    for path in sorted(folder.glob("networks-*.safetensors")):
        with understood(path), safe_open(path, framework="pt") as file:
            keys = [key for key in file.keys() if wanted is None or key.split("/", 1)[1] in wanted]
            tensors.update({key: file.get_tensor(key) for key in keys})
    return tensors


def restore(folder: Path, shard: Shard, step: int) -> None:
    """Put the parameters and moments of the checkpoint of a step back, for the networks that this worker has now."""
    owners = {id(p): optimiser for optimiser in shard.optimisers for p in optimiser.param_groups[0]["params"]}

    @torch.no_grad()
    def put(parameter: Tensor, value: Tensor, mean: Tensor | None, square: Tensor | None) -> None:
        parameter.copy_(like(value, parameter))
        if mean is not None and square is not None:
            owners[id(parameter)].state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": like(mean, parameter),
                "exp_avg_sq": like(square, parameter),
            }

    shared = read_shared(folder)
    for name, parameter in shard.dynamics.named_parameters():
        put(parameter, shared[name], shared.get(f"mean.{name}"), shared.get(f"square.{name}"))
    tensors = read_private(folder, shard.private.ids)
    for name, parameter, ids in shard.private.rows():
        mean, square = (
            torch.stack([tensors[f"{prefix}{name}/{id}"] for id in ids]) if f"{prefix}{name}/{ids[0]}" in tensors else None
            for prefix in ("mean.", "square.")
        )
        put(parameter, torch.stack([tensors[f"{name}/{id}"] for id in ids]), mean, square)
