"""A trained meta-model on disk.

meta/
  meta.json          format, config, where its population lies
  progress.jsonl     losses along training
  step-<n>/          checkpoints (see `checkpoint.py`)
"""

import dataclasses
import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.commit import write_json
from dynamo_dist.data import Examples
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import checkpoint
from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.model import Dynamics
from dynamo_dist.population import Population

FORMAT = 1


class MetaModel:
    """One network that emulates every network of its population, given an embedding vector theta of shape (D,)."""

    def __init__(self, path: Path, step_folder: Path) -> None:
        self.path = path
        header = json.loads((path / "meta.json").read_text())
        self.config = MetaModelConfig(**header["config"])
        self.population_path = (path / header["population"]).resolve()
        shared = checkpoint.read_shared(step_folder)
        dtype = shared["w_readout"].dtype
        self.dynamics = Dynamics(
            vocabulary=shared["embedding"].shape[0],
            classes=shared["w_readout"].shape[1],
            config=self.config,
            generator=torch.Generator(),
            dtype=dtype,
        )
        self.dynamics.load_state_dict({name: shared[name] for name in self.dynamics.state_dict()})
        self.dynamics.requires_grad_(False)
        private = checkpoint.read_private(step_folder, self.population.network_ids)
        # Networks that failed in training are in the population but were not embedded.
        self.network_ids = tuple(id for id in self.population.network_ids if f"theta/{id}" in private)
        self._private = private
        self.embedding = torch.stack([private[f"theta/{id}"] for id in self.network_ids]).double().numpy()

    @staticmethod
    def prepare(path: Path, population: Population, config: MetaModelConfig) -> None:
        """Lay down the folder of a meta-model to be trained, or accept the one that is there if it is the same."""
        path.mkdir(parents=True, exist_ok=True)
        header = {
            "format": FORMAT,
            "config": dataclasses.asdict(config),
            "population": os.path.relpath(population.path.resolve(), path.resolve()),
        }
        if (path / "meta.json").exists():
            if json.loads((path / "meta.json").read_text()) != header:
                raise InputError(f"{path} holds a meta-model of another configuration or population; choose another folder")
            return
        write_json(path / "meta.json", header)

    @staticmethod
    def is_finished(path: Path) -> bool:
        """Whether a prepared folder holds a verified checkpoint of its last step."""
        steps = MetaModelConfig(**json.loads((path / "meta.json").read_text())["config"]).steps
        return checkpoint.newest_verified(path) == checkpoint.step_path(path, steps)

    @classmethod
    def open(cls, path: str | Path) -> "MetaModel":
        """The meta-model in a folder, at its last step. Raises `InputError` when there is none or it is not finished."""
        path = Path(path)
        if not (path / "meta.json").exists():
            raise InputError(f"{path} holds no meta-model (no meta.json there); give the folder that training wrote")
        if not cls.is_finished(path):
            raise InputError(f"the meta-model in {path} is not trained to its last step yet; continue the run with --resume")
        return cls(path, checkpoint.newest_verified(path))

    @cached_property
    def population(self) -> Population:
        """The population that it emulates."""
        return Population.open(self.population_path)

    def batches(self, data: Examples, networks: int) -> Iterator[Tensor]:
        """Indices of all sequences, in batches that suit so many networks at once."""
        return data.batches(networks * data.inputs.shape[1] * 3 * self.config.hidden)

    def theta(self, ids: tuple[str, ...]) -> Tensor:
        """Embedding vectors of these networks, (m, D)."""
        return torch.stack([self._private[f"theta/{id}"] for id in ids])

    def state_map(self, id: str) -> tuple[Tensor, Tensor]:
        """V of a network: weight (K, H) and bias (1, H), h = h~ weight + bias."""
        if id not in self.network_ids:
            raise InputError(f"no network {id!r} in {self.path}")
        return self._private[f"weight/{id}"], self._private[f"bias/{id}"]

    @torch.no_grad()
    def emulate(
        self, theta: np.ndarray | Tensor, tokens: np.ndarray | Tensor, lengths: np.ndarray | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run the network at theta, any theta in R^D.

        `theta`: (D,), or (P, D) for P networks at once; `tokens`: ids (B, T); `lengths`: valid steps (B,), all T by default.
        Returns the states (B, T, K) and the logits (B, C) at the last valid step, with a leading P if theta has it.
        """
        theta_MD = torch.as_tensor(theta, dtype=self.dynamics.w_theta.dtype).reshape(-1, self.config.dimensions)
        tokens_BT = torch.as_tensor(tokens)
        lengths_B = torch.full((len(tokens_BT),), tokens_BT.shape[1]) if lengths is None else torch.as_tensor(lengths)
        h_TMBK, logits_MBC = self.dynamics(theta_MD, tokens_BT, lengths_B)
        h_MBTK = h_TMBK.permute(1, 2, 0, 3)
        return (h_MBTK[0], logits_MBC[0]) if torch.as_tensor(theta).dim() == 1 else (h_MBTK, logits_MBC)
