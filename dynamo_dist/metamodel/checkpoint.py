"""Checkpoints of a meta-model: one folder per step, committed whole.

    step-000500/
      shared.safetensors      F~, G~, initial state, and their optimiser moments (`mean.`, `square.` before the name)
      networks-<r>.safetensors  theta, V and moments of the networks of one worker, one tensor per network: `<name>/<network id>`
      state.json              step and config
      manifest.json           sizes and SHA-256

What is private is keyed by network id, so another number of workers can read it.
"""

import re
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dynamo_dist.commit import MANIFEST, Corrupted, verify_folder
from dynamo_dist.metamodel.model import Dynamics, Private

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
    for step in reversed(committed_steps(path)):
        try:
            verify_folder(step_path(path, step))
        except Corrupted:
            continue
        return step_path(path, step)
    return None


def remove_old(path: Path) -> None:
    """Keep the newest `KEPT` checkpoints, and clear away what killed writers left."""
    for step in committed_steps(path)[:-KEPT]:
        shutil.rmtree(step_path(path, step))
    for leftover in path.glob(".step-*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)


def _moments(optimiser: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    state = optimiser.state.get(parameter)
    return {"mean": state["exp_avg"], "square": state["exp_avg_sq"]} if state else {}


def save_shared(folder: Path, dynamics: Dynamics, optimiser: torch.optim.Optimizer) -> None:
    tensors = {}
    for name, parameter in dynamics.named_parameters():
        tensors[name] = parameter.detach()
        tensors.update({f"{kind}.{name}": moment for kind, moment in _moments(optimiser, parameter).items()})
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "shared.safetensors")


def _private_rows(private: Private) -> list[tuple[str, torch.nn.Parameter, tuple[str, ...]]]:
    """(name, stacked parameter, ids of its rows) of everything private."""
    rows = [("theta", private.theta, private.ids)]
    for cohort, weight, bias in zip(private.cohorts, private.weight, private.bias, strict=True):
        rows += [("weight", weight, cohort.ids), ("bias", bias, cohort.ids)]
    return rows


def save_private(folder: Path, rank: int, private: Private, optimiser: torch.optim.Optimizer) -> None:
    tensors = {}
    for name, parameter, ids in _private_rows(private):
        stacked = {name: parameter.detach()}
        stacked.update({f"{kind}.{name}": moment for kind, moment in _moments(optimiser, parameter).items()})
        for key, rows in stacked.items():
            tensors.update({f"{key}/{id}": row.contiguous() for id, row in zip(ids, rows, strict=True)})
    save_file(tensors, folder / f"networks-{rank:05d}.safetensors")


def read_shared(folder: Path) -> dict[str, Tensor]:
    with safe_open(folder / "shared.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def read_private(folder: Path, ids: tuple[str, ...]) -> dict[str, Tensor]:
    """Private tensors of these networks, by `<name>/<network id>`, whichever worker wrote them."""
    wanted, tensors = set(ids), {}
    for path in sorted(folder.glob("networks-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors.update({key: file.get_tensor(key) for key in file.keys() if key.split("/", 1)[1] in wanted})
    return tensors


def restore(folder: Path, step: int, dynamics: Dynamics, private: Private, optimiser: torch.optim.Optimizer) -> None:
    """Put a checkpoint's parameters and moments back, for the networks that this worker has now."""

    def put(parameter: Tensor, value: Tensor, mean: Tensor | None, square: Tensor | None) -> None:
        with torch.no_grad():
            parameter.copy_(value)
        if mean is not None:
            optimiser.state[parameter] = {"step": torch.tensor(float(step)), "exp_avg": mean.clone(), "exp_avg_sq": square.clone()}

    shared = read_shared(folder)
    for name, parameter in dynamics.named_parameters():
        put(parameter, shared[name], shared.get(f"mean.{name}"), shared.get(f"square.{name}"))
    tensors = read_private(folder, private.ids)
    for name, parameter, ids in _private_rows(private):
        value, mean, square = (
            torch.stack([tensors[f"{prefix}{name}/{id}"] for id in ids]) if f"{prefix}{name}/{ids[0]}" in tensors else None
            for prefix in ("", "mean.", "square.")
        )
        put(parameter, value, mean, square)
