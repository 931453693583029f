"""The network at one theta as a plain torch module, to run, save and export without its meta-model or its population.

With theta fixed the recurrent meta-model is one GRU, torch's, with a learned initial state. Both kinds work with `torch.export`.

Legend: B batch, T time, I input features, K hidden units, D embedding dimensions, C outputs.
"""

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dynamo_dist.commit import sha256, write_json
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.convolutional import ConvolutionalDynamics
from dynamo_dist.metamodel.recurrent import RecurrentDynamics
from dynamo_dist.networks.imported import one_line


class EmulatedRecurrent(nn.Module):
    """A GRU that starts from its own state and reads tokens (through its own embedding) or real values, and a linear readout.

    `vocabulary`: None where inputs are real values. Made without numbers: they come from `at` or `load_network`.
    """

    def __init__(self, *, vocabulary: int | None, features: int, hidden: int, outputs: int, every_step: bool) -> None:
        super().__init__()
        self.every_step = every_step
        # Layers draw their initial numbers from torch's global generator: on "meta" they have none.
        with torch.device("meta"):
            self.embedding = nn.Identity() if vocabulary is None else nn.Embedding(vocabulary, features)
            # Sequences go through torch.gru, the product behind nn.GRU, which holds its weights twice: torch.export warns of that.
            self.cell = nn.GRUCell(features, hidden)
            self.initial_state = nn.Parameter(torch.empty(hidden))
            self.readout = nn.Linear(hidden, outputs)

    @classmethod
    def at(
        cls, dynamics: RecurrentDynamics, theta_D: Tensor, *, ids: slice | None, features: int, outputs: int, every_step: bool
    ) -> "EmulatedRecurrent":
        """The meta-model at theta. `ids`: tokens of its alphabet that are read, None: real values with so many `features`."""
        weights = dynamics.weights_at(theta_D)
        w_inputs = weights.w_inputs(tokens=False)[:features] if ids is None else weights.w_inputs(tokens=True)
        table = None if ids is None else dynamics.words[ids]
        network = cls(
            vocabulary=None if table is None else len(table),
            features=len(w_inputs),
            hidden=dynamics.hidden,
            outputs=outputs,
            every_step=every_step,
        )
        state = {
            "cell.weight_ih": w_inputs.T,
            "cell.weight_hh": weights.w_recurrent.T,
            "cell.bias_ih": weights.b_input,
            "cell.bias_hh": torch.cat([torch.zeros_like(weights.b_input[dynamics.hidden :]), weights.b_candidate]),
            "initial_state": dynamics.initial_state,
            "readout.weight": dynamics.w_readout[:, :outputs].T,
            "readout.bias": dynamics.b_readout[:outputs],
        }
        return _filled(network, state if table is None else state | {"embedding.weight": table})

    def forward(self, inputs: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Token ids (B, T) or values (B, T, I) of the parameters' dtype, and valid steps (B,), all T by default: states (B, T, K) and outputs
        (B, C) at the last valid step, or (B, T, C) at every step. States and outputs after the last valid step mean nothing."""
        start = self.initial_state.expand(1, inputs.shape[0], -1).contiguous()
        cell = self.cell
        weights = [cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh]
        # With biases, one layer, no dropout, one direction, batch first.
        h_BTK, _ = torch.gru(self.embedding(inputs), start, weights, True, 1, 0.0, self.training, False, True)
        if self.every_step:
            return h_BTK, self.readout(h_BTK)
        last_BK = h_BTK[:, -1] if lengths_B is None else h_BTK[torch.arange(len(lengths_B), device=h_BTK.device), lengths_B - 1]
        return h_BTK, self.readout(last_BK)

    def step(self) -> "Step":
        """One step (F, G) as a module of its own, with the same parameters; sequences start from `initial_state` (K,)."""
        return Step(self)

    def sizes(self) -> dict[str, Any]:
        """What the constructor takes."""
        vocabulary = self.embedding.num_embeddings if isinstance(self.embedding, nn.Embedding) else None
        cell = self.cell
        return {
            "vocabulary": vocabulary, "features": cell.input_size, "hidden": cell.hidden_size, "outputs": self.readout.out_features,
            "every_step": self.every_step,
        }  # fmt: skip

    def save(self, folder: str | Path) -> None:
        """Write `network.json` and `network.safetensors`; `load_network` reads them."""
        _save(Path(folder), "recurrent", self.sizes(), self)


class Step(nn.Module):
    """State update F and readout G: inputs (B,) token ids or (B, I) values and states (B, K) to new states and outputs (B, C)."""

    def __init__(self, network: EmulatedRecurrent) -> None:
        super().__init__()
        self.embedding, self.cell, self.readout = network.embedding, network.cell, network.readout

    def forward(self, x: Tensor, h_BK: Tensor) -> tuple[Tensor, Tensor]:
        h_BK = self.cell(self.embedding(x), h_BK)
        return h_BK, self.readout(h_BK)


class EmulatedConvolutional(nn.Module):
    """The convolutional meta-model at one theta."""

    theta: Tensor

    def __init__(self, *, channels: int, outputs: int, dimensions: int, hidden: int, blocks: int, conditioning: str) -> None:
        super().__init__()
        config = MetaModelConfig(dimensions=dimensions, hidden=hidden, blocks=blocks, conditioning=conditioning)
        self._sizes = {
            "channels": channels, "outputs": outputs, "dimensions": dimensions, "hidden": hidden, "blocks": blocks, "conditioning": conditioning,
        }  # fmt: skip
        self.dynamics = ConvolutionalDynamics(
            channels=channels, outputs=outputs, config=config, generator=torch.Generator(), dtype=torch.float32
        )
        self.register_buffer("theta", torch.zeros(dimensions))

    @classmethod
    def at(
        cls, dynamics: ConvolutionalDynamics, theta_D: Tensor, *, channels: int, outputs: int, config: MetaModelConfig
    ) -> "EmulatedConvolutional":
        """The meta-model of this configuration at theta. It reads the first `channels` and gives the first `outputs`."""
        network = cls(
            channels=channels,
            outputs=outputs,
            dimensions=config.dimensions,
            hidden=config.hidden,
            blocks=config.blocks,
            conditioning=config.conditioning,
        )
        state = {f"dynamics.{name}": tensor for name, tensor in dynamics.state_dict().items()} | {
            "dynamics.w_stem": dynamics.w_stem[:, :channels],
            "dynamics.w_readout": dynamics.w_readout[:, :outputs],
            "dynamics.b_readout": dynamics.b_readout[:outputs],
            "theta": theta_D,
        }
        return _filled(network, state)

    def forward(self, images_B: Tensor) -> tuple[list[Tensor], Tensor]:
        """Images (B, channels, Y, X) of the parameters' dtype: stages (B, K, y, x) and pooled features (B, 4 K), and outputs (B, C)."""
        stages, outputs = self.dynamics(self.theta[None], images_B)
        return [stage[0] for stage in stages], outputs[0]

    def sizes(self) -> dict[str, Any]:
        """What the constructor takes."""
        return self._sizes

    def save(self, folder: str | Path) -> None:
        """Write `network.json` and `network.safetensors`; `load_network` reads them."""
        _save(Path(folder), "convolutional", self.sizes(), self)


_KINDS: dict[str, type[EmulatedRecurrent] | type[EmulatedConvolutional]] = {"recurrent": EmulatedRecurrent, "convolutional": EmulatedConvolutional}


Network = TypeVar("Network", bound=nn.Module)


def _filled(network: Network, state: dict[str, Tensor]) -> Network:
    """The network with copies of these tensors as its parameters, of their dtype."""
    network.load_state_dict({name: t.detach().clone(memory_format=torch.contiguous_format) for name, t in state.items()}, assign=True)
    return network


def _save(folder: Path, kind: str, sizes: dict[str, Any], network: nn.Module) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "network.safetensors"
    save_file({name: t.contiguous() for name, t in network.state_dict().items()}, file)
    write_json(folder / "network.json", {"kind": kind, **sizes, "sha256": sha256(file)})


def load_network(folder: str | Path) -> EmulatedRecurrent | EmulatedConvolutional:
    """The network that `save` wrote to a folder, bit for bit. The files hold sizes and numbers; nothing in them is executed.

    Raises `InputError` when there is none, or when a file is not what was saved.
    """
    about, file = Path(folder) / "network.json", Path(folder) / "network.safetensors"
    for path in (about, file):
        if not path.is_file():
            raise InputError(f"{folder} holds no network (no {path.name} there); give the folder that `save` wrote")
    again = "save the network again"
    try:
        sizes = dict(json.loads(about.read_text(encoding="utf-8")))
        kind, hashed = sizes.pop("kind", None), sizes.pop("sha256", None)
    except (ValueError, TypeError):
        raise InputError(f"{about} is damaged (it is not a JSON object): {again}") from None
    if kind not in list(_KINDS):
        raise InputError(f"{about}: kind {kind!r}: expected one of {', '.join(_KINDS)}; {again}")
    if sha256(file) != hashed:
        raise InputError(f"{file} is not the file that {about.name} beside it tells of (SHA-256): {again}")
    try:
        tensors = load_file(file)
        network = _KINDS[kind](**sizes)
    except (SafetensorError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{folder} does not hold a {kind} network ({one_line(error)}): {again}") from None
    expected, found = ({name: tuple(t.shape) for name, t in own.items()} for own in (network.state_dict(), tensors))
    wrong = next((name for name in [*expected, *found] if expected.get(name) != found.get(name)), None)
    if wrong is not None:
        raise InputError(f"{file}: tensor {wrong!r} has shape {found.get(wrong)}, and {about.name} asks for {expected.get(wrong)}: {again}")
    return _filled(network, tensors)
