"""Many networks of one architecture in one set of tensors with a leading network axis.

Legend: M networks, B batch, T time, I embedding features, H hidden units, G = gates * H, W words (vocabulary), C classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dynamo_dist.errors import InputError
from dynamo_dist.networks import recurrence
from dynamo_dist.networks.modules import CELLS, SequenceClassifier

GATES = {"gru": 3, "rnn": 1}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What networks must share to be stacked."""

    # Recurrent cell: "gru" or "rnn" (tanh).
    cell: str
    # Hidden units H.
    hidden: int
    # Features I of the token embedding.
    embedding: int
    # Token ids, padding included.
    vocabulary: int
    # Output classes C.
    classes: int

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise InputError(f"Architecture.cell={self.cell!r}: expected one of {', '.join(CELLS)}")
        for field in ("hidden", "embedding", "vocabulary", "classes"):
            if getattr(self, field) < 1:
                raise InputError(f"Architecture.{field}={getattr(self, field)}: expected a positive number")

    @property
    def label(self) -> str:
        """Short name for tables, for example `gru-32`."""
        return f"{self.cell}-{self.hidden}"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter of one network."""
        gates = GATES[self.cell] * self.hidden
        return {
            "embedding": (self.vocabulary, self.embedding),
            "w_input": (self.embedding, gates),
            "b_input": (1, gates),
            "w_recurrent": (self.hidden, gates),
            "b_recurrent": (1, gates),
            "w_readout": (self.hidden, self.classes),
            "b_readout": (1, self.classes),
        }


def _initial(architecture: Architecture, seed: int) -> dict[str, Tensor]:
    """Parameters of one network from its own seed, distributed as torch's modules start: embeddings normal, the rest uniform."""
    generator = torch.Generator().manual_seed(seed)
    bound = architecture.hidden**-0.5
    return {
        name: torch.randn(shape, generator=generator)
        if name == "embedding"
        else torch.empty(shape).uniform_(-bound, bound, generator=generator)
        for name, shape in architecture.shapes().items()
    }


class StackedClassifier:
    """M sequence classifiers of one architecture. `parameters[name]` has shape (M, *architecture.shapes()[name])."""

    def __init__(self, architecture: Architecture, parameters: Mapping[str, Tensor]) -> None:
        self.architecture = architecture
        self.parameters = dict(parameters)

    @classmethod
    def initial(cls, architecture: Architecture, seeds: Sequence[int]) -> "StackedClassifier":
        """Fresh networks, each a function of its own seed alone."""
        networks = [_initial(architecture, seed) for seed in seeds]
        return cls(architecture, {name: torch.stack([network[name] for network in networks]) for name in architecture.shapes()})

    @property
    def count(self) -> int:
        return self.parameters["embedding"].shape[0]

    def select(self, index: Sequence[int]) -> "StackedClassifier":
        """The networks at these positions."""
        return StackedClassifier(self.architecture, {name: p[list(index)] for name, p in self.parameters.items()})

    def to(self, *args, **kwargs) -> "StackedClassifier":
        """As `torch.Tensor.to`, for every parameter."""
        return StackedClassifier(self.architecture, {name: p.to(*args, **kwargs) for name, p in self.parameters.items()})

    def _inputs(self, tokens_MBT: Tensor) -> Tensor:
        """Input part of the gates, (T, M, B, G), the input bias included."""
        p = self.parameters
        networks, batch, time = tokens_MBT.shape
        tokens_TMB = tokens_MBT.permute(2, 0, 1)
        offset = torch.arange(self.count, device=tokens_MBT.device)[:, None] * self.architecture.vocabulary
        if self.architecture.vocabulary < batch * time:
            # Fewer words than positions: project the table, then look the projections up.
            table_MWG = torch.baddbmm(p["b_input"], p["embedding"], p["w_input"])
            return functional.embedding(tokens_TMB + offset, table_MWG.flatten(0, 1))
        x_TMBI = functional.embedding(tokens_TMB + offset, p["embedding"].flatten(0, 1))
        x_MRI = x_TMBI.transpose(0, 1).reshape(networks, time * batch, -1)
        g_MRG = torch.baddbmm(p["b_input"], x_MRI, p["w_input"])
        return g_MRG.view(networks, time, batch, -1).transpose(0, 1)

    def states(self, tokens_MBT: Tensor) -> Tensor:
        """Hidden states (T, M, B, H) on token ids (M, B, T); (1, B, T) feeds all networks the same."""
        p = self.parameters
        hidden = self.architecture.hidden
        tokens_MBT = tokens_MBT.expand(self.count, -1, -1)
        x_TMBG = self._inputs(tokens_MBT)
        h0 = x_TMBG.new_zeros(self.count, tokens_MBT.shape[1], hidden)
        bias = p["b_recurrent"]
        if self.architecture.cell == "rnn":
            return recurrence.rnn(x_TMBG + bias, p["w_recurrent"], h0)
        # Of the recurrent biases only the candidate's stands inside the reset gate; the others add to the input part.
        rz_bias = functional.pad(bias[..., : 2 * hidden], (0, hidden))
        return recurrence.gru(x_TMBG + rz_bias, p["w_recurrent"], bias[..., 2 * hidden :], h0)

    def readout(self, h_MBH: Tensor) -> Tensor:
        """Logits (M, B, C) of hidden states (M, B, H)."""
        return torch.baddbmm(self.parameters["b_readout"], h_MBH, self.parameters["w_readout"])

    def __call__(self, tokens_MBT: Tensor, lengths_MB: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states (T, M, B, H) and the logits (M, B, C) at the last valid step; (1, B, ...) feeds all networks the same."""
        h_TMBH = self.states(tokens_MBT)
        return h_TMBH, self.readout(last_state(h_TMBH, lengths_MB))

    def network(self, position: int) -> SequenceClassifier:
        """One of them as a plain `torch.nn.Module`."""
        module = SequenceClassifier(
            cell=self.architecture.cell,
            vocabulary=self.architecture.vocabulary,
            embedding=self.architecture.embedding,
            hidden=self.architecture.hidden,
            classes=self.architecture.classes,
        )
        p = {name: tensor[position] for name, tensor in self.parameters.items()}
        module.to(p["embedding"].dtype)
        module.load_state_dict(
            {
                "embedding.weight": p["embedding"],
                "recurrent.weight_ih_l0": p["w_input"].T,
                "recurrent.weight_hh_l0": p["w_recurrent"].T,
                "recurrent.bias_ih_l0": p["b_input"][0],
                "recurrent.bias_hh_l0": p["b_recurrent"][0],
                "readout.weight": p["w_readout"].T,
                "readout.bias": p["b_readout"][0],
            }
        )
        return module


def last_state(h_TMBH: Tensor, lengths_MB: Tensor) -> Tensor:
    """States at the last valid step, (M, B, H); `lengths_MB` may be (1, B)."""
    _, networks, batch, hidden = h_TMBH.shape
    index = (lengths_MB - 1).expand(networks, batch)[None, ..., None].expand(1, networks, batch, hidden)
    return h_TMBH.gather(0, index)[0]
