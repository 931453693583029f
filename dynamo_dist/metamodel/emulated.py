"""The network at one theta as a plain torch module, to run, save and export without this package's meta-model.

With theta fixed the recurrent meta-model is one `torch.nn.GRU` with a learned initial state. Both kinds work with `torch.export`.

Legend: B batch, T time, I input features, K hidden units, D embedding dimensions, C outputs.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dynamo_dist.commit import write_json
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.convolutional import ConvolutionalDynamics
from dynamo_dist.metamodel.recurrent import RecurrentDynamics


class EmulatedRecurrent(nn.Module):
    """A GRU that starts from its own state and reads tokens (through its own embedding) or real values, and a linear readout."""

    def __init__(self, *, vocabulary: int | None, features: int, hidden: int, outputs: int, every_step: bool) -> None:
        super().__init__()
        self.every_step = every_step
        self.embedding = nn.Embedding(vocabulary, features) if vocabulary else nn.Identity()
        self.gru = nn.GRU(features, hidden, batch_first=True)
        self.initial_state = nn.Parameter(torch.zeros(hidden))
        self.readout = nn.Linear(hidden, outputs)

    @classmethod
    def at(
        cls, dynamics: RecurrentDynamics, theta_D: Tensor, *, ids: slice | None, features: int, outputs: int, every_step: bool
    ) -> "EmulatedRecurrent":
        """The meta-model at theta. `ids`: tokens of its alphabet that are read, None: real values with so many `features`."""
        weights = dynamics.weights_at(theta_D)
        w_inputs = weights.w_values[:features] if ids is None else weights.w_tokens
        table = None if ids is None else dynamics.embedding[ids]
        network = cls(
            vocabulary=None if table is None else len(table),
            features=len(w_inputs),
            hidden=dynamics.hidden,
            outputs=outputs,
            every_step=every_step,
        ).to(theta_D)
        state = {
            "gru.weight_ih_l0": w_inputs.T,
            "gru.weight_hh_l0": weights.w_recurrent.T,
            "gru.bias_ih_l0": weights.b_input,
            "gru.bias_hh_l0": torch.cat([torch.zeros_like(weights.b_input[dynamics.hidden :]), weights.b_candidate]),
            "initial_state": dynamics.initial_state,
            "readout.weight": dynamics.w_readout[:, :outputs].T,
            "readout.bias": dynamics.b_readout[:outputs],
        }
        network.load_state_dict(state if table is None else state | {"embedding.weight": table})
        return network

    def forward(self, inputs: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Token ids (B, T) or values (B, T, I), and valid steps (B,), all T by default: states (B, T, K) and outputs (B, C) at the last valid
        step, or (B, T, C) at every step."""
        start = self.initial_state.expand(1, inputs.shape[0], -1).contiguous()
        h_BTK, _ = self.gru(self.embedding(inputs), start)
        if self.every_step:
            return h_BTK, self.readout(h_BTK)
        last_BK = h_BTK[:, -1] if lengths_B is None else h_BTK[torch.arange(len(lengths_B), device=h_BTK.device), lengths_B - 1]
        return h_BTK, self.readout(last_BK)

    def step(self) -> "Step":
        """One step (F, G) as a module of its own."""
        return Step(self)

    def sizes(self) -> dict[str, Any]:
        """What the constructor takes."""
        vocabulary = self.embedding.num_embeddings if isinstance(self.embedding, nn.Embedding) else None
        gru = self.gru
        return {
            "vocabulary": vocabulary, "features": gru.input_size, "hidden": gru.hidden_size, "outputs": self.readout.out_features,
            "every_step": self.every_step,
        }  # fmt: skip

    def save(self, folder: str | Path) -> None:
        """Write `network.json` and `network.safetensors`; `load_network` reads them."""
        _save(Path(folder), "recurrent", self.sizes(), self)


class Step(nn.Module):
    """State update F and readout G: inputs (B,) token ids or (B, I) values and states (B, K) to new states and outputs (B, C)."""

    def __init__(self, network: EmulatedRecurrent) -> None:
        super().__init__()
        gru = network.gru
        self.embedding, self.readout = network.embedding, network.readout
        self.cell = nn.GRUCell(gru.input_size, gru.hidden_size).to(gru.weight_ih_l0)
        self.cell.load_state_dict({name.removesuffix("_l0"): tensor for name, tensor in gru.state_dict().items()})

    def forward(self, x: Tensor, h_BK: Tensor) -> tuple[Tensor, Tensor]:
        h_BK = self.cell(self.embedding(x), h_BK)
        return h_BK, self.readout(h_BK)


class EmulatedConvolutional(nn.Module):
    """The convolutional meta-model at one theta."""

    def __init__(self, *, channels: int, outputs: int, config: dict[str, Any]) -> None:
        super().__init__()
        self._sizes = {"channels": channels, "outputs": outputs, "config": config}
        self.dynamics = ConvolutionalDynamics(
            channels=channels, outputs=outputs, config=MetaModelConfig(**config), generator=torch.Generator(), dtype=torch.float32
        )
        self.register_buffer("theta", torch.zeros(self.dynamics.dimensions))

    @classmethod
    def at(
        cls, dynamics: ConvolutionalDynamics, theta_D: Tensor, *, channels: int, outputs: int, config: dict[str, Any]
    ) -> "EmulatedConvolutional":
        network = cls(channels=channels, outputs=outputs, config=config)
        network.dynamics = copy.deepcopy(dynamics)
        network.theta = theta_D.clone()
        return network

    def forward(self, images_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """Images (B, channels, Y, X): stages (B, K, y, x) and pooled features (B, 4 K), and outputs (B, C)."""
        stages, outputs = self.dynamics(self.theta[None], images_B)
        return [stage[0] for stage in stages], outputs[0]

    def save(self, folder: str | Path) -> None:
        """Write `network.json` and `network.safetensors`; `load_network` reads them."""
        _save(Path(folder), "convolutional", self._sizes, self)


_KINDS = {"recurrent": EmulatedRecurrent, "convolutional": EmulatedConvolutional}


def _save(folder: Path, kind: str, sizes: dict[str, Any], network: nn.Module) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, folder / "network.safetensors")
    write_json(folder / "network.json", {"kind": kind, **sizes})


def load_network(folder: str | Path) -> EmulatedRecurrent | EmulatedConvolutional:
    """The network that `save` wrote to a folder. Raises `InputError` when there is none."""
    folder = Path(folder)
    if not (folder / "network.json").exists():
        raise InputError(f"{folder} holds no network (no network.json there); give the folder that `save` wrote")
    sizes = json.loads((folder / "network.json").read_text())
    kind = sizes.pop("kind", None)
    if kind not in _KINDS:
        raise InputError(f"{folder / 'network.json'}: kind {kind!r}: expected one of {', '.join(_KINDS)}")
    tensors = load_file(folder / "network.safetensors")
    network = _KINDS[kind](**sizes).to(next(t.dtype for t in tensors.values() if t.is_floating_point()))
    network.load_state_dict(tensors)
    return network
