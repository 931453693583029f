"""Recurrent networks, stacked.

Legend: M networks, B batch, T time, I input features, H hidden units, G = gates * H, W words (vocabulary), C output units.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamo_dist.networks import recurrence
from dynamo_dist.networks.architecture import GATES, Recurrent
from dynamo_dist.networks.modules import SequenceNetwork
from dynamo_dist.networks.stacked import Stacked, last_state


class StackedRecurrent(Stacked):
    """M recurrent networks: embedding (M, W, I) where inputs are tokens, w_input (M, I, G), b_input (M, 1, G),
    w_recurrent (M, H, G), b_recurrent (M, 1, G), w_readout (M, H, C), b_readout (M, 1, C). Gates in torch's order."""

    architecture: Recurrent

    @classmethod
    def initial_tensors(cls, architecture: Recurrent, generator: torch.Generator) -> dict[str, Tensor]:
        gates, bound = GATES[architecture.cell] * architecture.hidden, architecture.hidden**-0.5
        tensors = {}
        if architecture.vocabulary:
            tensors["embedding"] = torch.randn(architecture.vocabulary, architecture.features, generator=generator)
        shapes = {
            "w_input": (architecture.features, gates),
            "b_input": (1, gates),
            "w_recurrent": (architecture.hidden, gates),
            "b_recurrent": (1, gates),
            "w_readout": (architecture.hidden, architecture.outputs),
            "b_readout": (1, architecture.outputs),
        }
        for name, shape in shapes.items():
            tensors[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
        return tensors

    @staticmethod
    def tensors_of(embedding: nn.Embedding | None, recurrent: nn.Module, readout: nn.Linear) -> dict[str, Tensor]:
        """The tensors of one network from its modules: the inverse of `network`, without the axis M."""

        def own(name: str) -> Tensor:
            tensor: Tensor = getattr(recurrent, name)
            return tensor

        tensors = {
            "w_input": own("weight_ih_l0").T,
            "b_input": own("bias_ih_l0")[None],
            "w_recurrent": own("weight_hh_l0").T,
            "b_recurrent": own("bias_hh_l0")[None],
            "w_readout": readout.weight.T,
            "b_readout": readout.bias[None],
        }
        return {name: t.detach().contiguous() for name, t in tensors.items()} | (
            {"embedding": embedding.weight.detach()} if embedding is not None else {}
        )

    def _own_layers(self, inputs: Tensor) -> Tensor:
        """Hidden states (T, M, B, H) of LSTMs by torch's own layer, one network after the other."""
        p = self.parameters
        x_MBTI = inputs
        if self.architecture.vocabulary is not None:
            offset_M11 = torch.arange(self.count, device=inputs.device)[:, None, None] * self.architecture.vocabulary
            x_MBTI = functional.embedding(inputs + offset_M11, p["embedding"].flatten(0, 1))
        h0 = p["w_recurrent"].new_zeros(1, inputs.shape[1], self.architecture.hidden)
        weights = zip(p["w_input"].mT, p["w_recurrent"].mT, p["b_input"][:, 0], p["b_recurrent"][:, 0], strict=True)
        # biases, 1 layer, no dropout, in training, one direction, batch first
        options = (True, 1, 0.0, True, False, True)
        h_MBTH = torch.stack([torch.lstm(x_BTI, (h0, h0), own, *options)[0] for x_BTI, own in zip(x_MBTI, weights, strict=True)])
        return h_MBTH.permute(2, 0, 1, 3)

    def _inputs(self, inputs: Tensor, bias_M1G: Tensor) -> Tensor:
        """Input part of the gates, (T, M, B, G), the bias included, of inputs (M, B, T) or (M, B, T, I)."""
        p = self.parameters
        networks, batch, time = inputs.shape[:3]
        if self.architecture.vocabulary is None:
            x_TMBI = inputs.permute(2, 0, 1, 3)
        else:
            tokens_TMB = inputs.permute(2, 0, 1)
            offset_M1 = torch.arange(self.count, device=inputs.device)[:, None] * self.architecture.vocabulary
            if self.architecture.vocabulary < batch * time:
                # Fewer words than positions: project the table, then look the projections up.
                table_MWG = torch.baddbmm(bias_M1G, p["embedding"], p["w_input"])
                return functional.embedding(tokens_TMB + offset_M1, table_MWG.flatten(0, 1))
            x_TMBI = functional.embedding(tokens_TMB + offset_M1, p["embedding"].flatten(0, 1))
        x_MRI = x_TMBI.transpose(0, 1).reshape(networks, time * batch, -1)
        g_MRG = torch.baddbmm(bias_M1G, x_MRI, p["w_input"])
        return g_MRG.view(networks, time, batch, -1).transpose(0, 1)

    def states(self, inputs: Tensor, mixing: recurrence.Mixing | None = None) -> tuple[Tensor, Tensor | None]:
        """Hidden states (T, M, B, H), and of LSTMs the cell states (T, M, B, H); `inputs` as in `__call__`."""
        p, cell, hidden = self.parameters, self.architecture.cell, self.architecture.hidden
        inputs = inputs.expand(self.count, *inputs.shape[1:])
        h0 = p["w_recurrent"].new_zeros(self.count, inputs.shape[1], hidden)
        if cell == "gru":
            # Of the recurrent biases only the candidate's stands inside the reset gate; the others add to the input part.
            inside = p["b_recurrent"][..., 2 * hidden :]
            outside = functional.pad(p["b_recurrent"][..., : 2 * hidden], (0, hidden))
            bias_M1G = p["b_input"] + outside
        else:
            bias_M1G = p["b_input"] + p["b_recurrent"]

        def run(x_TMBG: Tensor, *start: Tensor) -> tuple[Tensor, ...]:
            if cell == "gru":
                return (recurrence.gru(x_TMBG, p["w_recurrent"], inside, *start),)
            if cell == "lstm":
                return recurrence.lstm(x_TMBG, p["w_recurrent"], *start)
            if cell == "ugrnn":
                return (recurrence.ugrnn(x_TMBG, p["w_recurrent"], *start),)
            return (recurrence.rnn(x_TMBG, p["w_recurrent"], *start, relu=cell == "rnn-relu"),)

        start = (h0, h0) if cell == "lstm" else (h0,)
        found = recurrence.mixed(run, self._inputs(inputs, bias_M1G), start, mixing)
        return found[0], (found[1] if cell == "lstm" else None)

    def readout(self, h: Tensor) -> Tensor:
        """Outputs (M, B, C) of hidden states (M, B, H); (M, B, T, C) of (M, B, T, H)."""
        out = torch.baddbmm(self.parameters["b_readout"], h.flatten(1, -2), self.parameters["w_readout"])
        answers: Tensor = out.unflatten(1, h.shape[1:-1])
        return answers

    def __call__(
        self, inputs: Tensor, lengths_MB: Tensor | None, *, training: bool = False, mixing: recurrence.Mixing | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `Stacked.__call__`. The trajectory of LSTMs is [h; c], (T, M, B, 2H); in training h alone."""
        if not training:
            trajectory_TMBS = self.trajectory(inputs, mixing)
            return trajectory_TMBS, self.answers(trajectory_TMBS, lengths_MB)
        if recurrence.prefers_own_layers(self.architecture.cell, self.architecture.hidden, inputs.device):
            h_TMBH = self._own_layers(inputs.expand(self.count, *inputs.shape[1:]))
        else:
            h_TMBH, _ = self.states(inputs, mixing)
        return h_TMBH, self.answers(h_TMBH, lengths_MB)

    def trajectory(self, inputs: Tensor, mixing: recurrence.Mixing | None = None) -> Tensor:
        """The first of what `__call__` gives, (T, M, B, H or 2H): it does not depend on the readouts."""
        h_TMBH, c_TMBH = self.states(inputs, mixing)
        return h_TMBH if c_TMBH is None else torch.cat([h_TMBH, c_TMBH], dim=-1)

    def answers(self, trajectory_TMBS: Tensor, lengths_MB: Tensor | None) -> Tensor:
        """The second, of such a trajectory."""
        h_TMBH = trajectory_TMBS[..., : self.architecture.hidden]
        if self.architecture.every_step:
            return self.readout(h_TMBH.permute(1, 2, 0, 3))
        assert lengths_MB is not None, "who answers at the end is told where that is"
        return self.readout(last_state(h_TMBH, lengths_MB))

    @property
    def body(self) -> Recurrent:
        """The architecture but for the readout, which has no part in a trajectory."""
        return replace(self.architecture, outputs=1, every_step=False)

    @classmethod
    def joined(cls, stacks: Sequence["StackedRecurrent"]) -> "StackedRecurrent":
        """The networks of several stacks with one `body` in one stack, without readouts: for `states` and `trajectory`."""
        names = (name for name in stacks[0].parameters if not name.endswith("_readout"))
        return cls(stacks[0].body, {name: torch.cat([stack.parameters[name] for stack in stacks]) for name in names})

    def network(self, position: int) -> SequenceNetwork:
        p = {name: tensor[position].detach() for name, tensor in self.parameters.items()}
        module = SequenceNetwork(self.architecture).to(p["w_readout"].dtype)
        state = {
            "recurrent.weight_ih_l0": p["w_input"].T,
            "recurrent.weight_hh_l0": p["w_recurrent"].T,
            "recurrent.bias_ih_l0": p["b_input"][0],
            "recurrent.bias_hh_l0": p["b_recurrent"][0],
            "readout.weight": p["w_readout"].T,
            "readout.bias": p["b_readout"][0],
        }
        module.load_state_dict(state | ({"embedding.weight": p["embedding"]} if "embedding" in p else {}))
        return module
