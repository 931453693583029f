"""The shared half of a recurrent meta-model: F~, a GRU that also reads theta, G~ and the initial state.

It does not depend on the population. theta enters the state update only; for every network the update is a plain GRU whose weights and
biases depend on theta, which `weights_at` writes out.

Legend: M networks, B batch, T time, K hidden units, G = 3 K, D embedding dimensions, E features of the token embedding, I input
features, C outputs, r rank.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.interface import Interface
from dynamo_dist.networks import recurrence
from dynamo_dist.networks.stacked import last_state


@dataclass(frozen=True, kw_only=True)
class GRUWeights:
    """The GRU at one theta, gates r | z | n, weights that multiply from the right."""

    # Of embedded tokens (E, G) and of real values (I, G); None where the meta-model reads no such inputs.
    w_tokens: Tensor | None
    w_values: Tensor | None
    # (G,); all biases but the candidate's inside the reset gate, (K,).
    b_input: Tensor
    b_candidate: Tensor
    # (K, G)
    w_recurrent: Tensor

    def w_inputs(self, *, tokens: bool) -> Tensor:
        """Of embedded tokens or of real values, where the meta-model reads those."""
        own = self.w_tokens if tokens else self.w_values
        assert own is not None, "the interface has inputs of this kind"
        return own


class RecurrentDynamics(nn.Module):
    """F~, G~ and the learned initial state. What does not depend on the network is formed once for all of them."""

    def __init__(self, interface: Interface, config: MetaModelConfig, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        hidden, self.conditioning = config.hidden, config.conditioning
        self.hidden, self.stages = hidden, (hidden,)

        def parameter(values: Tensor) -> nn.Parameter:
            return nn.Parameter(values.to(dtype))

        def uniform(*shape: int) -> nn.Parameter:
            return parameter(torch.empty(shape, dtype=torch.float64).uniform_(-(hidden**-0.5), hidden**-0.5, generator=generator))

        def normal(*shape: int, scale: float = 1.0) -> nn.Parameter:
            return parameter(torch.randn(shape, generator=generator, dtype=torch.float64) * scale)

        blocks = [torch.linalg.qr(torch.randn(hidden, hidden, generator=generator, dtype=torch.float64))[0] for _ in range(3)]
        self.embedding = normal(interface.vocabulary, config.embedding) if interface.vocabulary else None
        self.w_tokens = uniform(config.embedding, 3 * hidden) if interface.vocabulary else None
        self.w_values = uniform(interface.features, 3 * hidden) if interface.features else None
        self.b_input = uniform(3 * hidden)
        self.w_recurrent = parameter(torch.cat(blocks, dim=1))
        self.b_candidate = uniform(hidden)
        self.initial_state = nn.Parameter(torch.zeros(hidden, dtype=dtype))
        self.w_readout = uniform(hidden, interface.outputs)
        self.b_readout = uniform(interface.outputs)
        # theta starts at 0 and moves the gates by their natural size: entries of order one, unlike the weights of K summed units.
        if config.conditioning == "lowrank":
            # The weights and the bias, one below the other, are corrected by left diag(theta @ w_rank) right.
            rows = sum(w.shape[0] for w in (self.w_tokens, self.w_values) if w is not None) + 1 + hidden
            self.left = normal(rows, config.rank, scale=hidden**-0.5)
            self.right = normal(config.rank, 3 * hidden, scale=config.rank**-0.5)
            self.w_rank = normal(config.dimensions, config.rank)
        else:
            self.w_theta = normal(config.dimensions, 3 * hidden, scale=0.5)
            if config.conditioning == "film":
                self.w_scale = normal(config.dimensions, 3 * hidden, scale=0.5)

    @property
    def words(self) -> nn.Parameter:
        """The embedding of a meta-model that reads tokens, (W, E)."""
        assert self.embedding is not None, "the interface has tokens"
        return self.embedding

    @torch.no_grad()
    def start_words(self, vectors_WE: Tensor) -> None:
        """Start the token embedding from these vectors; features in which they are 0 for all words stay as they were drawn."""
        known_E = vectors_WE.abs().sum(dim=0) > 0
        self.words[:, known_E] = vectors_WE[:, known_E].to(self.words)

    def weights_at(self, theta_D: Tensor) -> GRUWeights:
        """The update at one theta written out as one GRU: the definition, and the oracle of `states`."""
        names = [name for name in ("w_tokens", "w_values") if getattr(self, name) is not None]
        parts = [getattr(self, name) for name in names] + [self.b_input[None], self.w_recurrent]
        candidate: Tensor = self.b_candidate
        if self.conditioning == "concat":
            parts[-2] = parts[-2] + theta_D @ self.w_theta
        elif self.conditioning == "film":
            scale_G = 1 + theta_D @ self.w_scale
            parts = [part * scale_G for part in parts]
            parts[-2] = parts[-2] + theta_D @ self.w_theta
            candidate = candidate * scale_G[2 * self.hidden :]
        else:
            correction = (self.left * (theta_D @ self.w_rank)) @ self.right
            sizes = [len(part) for part in parts]
            parts = [part + own for part, own in zip(parts, correction.split(sizes), strict=True)]
        inputs = dict(zip(names, parts, strict=False))
        return GRUWeights(
            w_tokens=inputs.get("w_tokens"),
            w_values=inputs.get("w_values"),
            b_input=parts[-2][0],
            b_candidate=candidate,
            w_recurrent=parts[-1],
        )

    def _project(self, inputs: Tensor, w_FG: Tensor, b_G: Tensor | None = None) -> Tensor:
        """Inputs (B, T) or (B, T, I), times weights of their features: (T, B, G)."""
        if inputs.is_floating_point():
            x_TBG = inputs.transpose(0, 1) @ w_FG
        elif len(self.words) < inputs.numel():
            # Fewer words than positions: project the table, then look the projections up.
            table = self.words @ w_FG if b_G is None else torch.addmm(b_G, self.words, w_FG)
            return functional.embedding(inputs.T, table)
        else:
            x_TBG = functional.embedding(inputs.T, self.words) @ w_FG
        return x_TBG if b_G is None else x_TBG + b_G

    def states(
        self,
        theta_MD: Tensor,
        inputs: Tensor,
        *,
        products: torch.dtype | None = None,
        mixing: recurrence.Mixing | None = None,
    ) -> Tensor:
        """Hidden states (T, M, B, K) for every theta on the same inputs, token ids (B, T) or real values (B, T, I), from the model's own
        initial state. `products`: a lower precision for the recurrence, for example bfloat16; `mixing`: of the states of the sequences."""
        batch, time, networks = *inputs.shape[:2], theta_MD.shape[0]
        hidden = self.hidden
        w_inputs = self.w_values if inputs.is_floating_point() else self.w_tokens
        assert w_inputs is not None, "the interface has inputs of this kind"
        x_TBG = self._project(inputs, w_inputs, self.b_input)
        if self.conditioning == "concat":
            # The weights are the same for all: one row per (network, sequence), one matrix product a step over all of them.
            gates = (x_TBG[:, None] + (theta_MD @ self.w_theta)[None, :, None]).view(time, 1, networks * batch, 3 * hidden)
            w_recurrent, candidate = self.w_recurrent[None], self.b_candidate[None, None]
        elif self.conditioning == "film":
            scale_MG = 1 + theta_MD @ self.w_scale
            gates = torch.addcmul((theta_MD @ self.w_theta)[:, None], x_TBG[:, None], scale_MG[:, None])
            w_recurrent, candidate = self.w_recurrent * scale_MG[:, None], (self.b_candidate * scale_MG[:, 2 * hidden :])[:, None]
        else:
            scale_Mr = theta_MD @ self.w_rank
            left, one, recurrent = self._left(inputs)
            x_TBr = self._project(inputs, left) + one
            gates = x_TBG[:, None] + (x_TBr[:, None] * scale_Mr[:, None]) @ self.right
            w_recurrent = self.w_recurrent + (recurrent * scale_Mr[:, None]) @ self.right
            candidate = self.b_candidate.expand(networks, 1, hidden)
        stacked, rows = gates.shape[1:3]
        start = self.initial_state.expand(stacked, rows, hidden)
        lower = gates.dtype if products is None else products

        def run(x: Tensor, h0_MBK: Tensor) -> tuple[Tensor]:
            h = recurrence.gru(*(part.to(lower) for part in (x, w_recurrent, candidate, h0_MBK.reshape(stacked, rows, hidden))))
            return (h.to(gates.dtype).view(len(x), networks, batch, hidden),)

        return recurrence.mixed(run, gates, (start,), mixing)[0]

    def _left(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of `left` for these inputs (E or I, r), for the bias (r,) and for the recurrent weights (K, r)."""
        tokens = 0 if self.w_tokens is None else len(self.w_tokens)
        end = len(self.left) - 1 - self.hidden
        return self.left[tokens:end] if inputs.is_floating_point() else self.left[:tokens], self.left[end], self.left[end + 1 :]

    def readout(self, h: Tensor) -> Tensor:
        """Outputs (..., C) of states (..., K)."""
        return h @ self.w_readout + self.b_readout

    def forward(
        self,
        theta_MD: Tensor,
        inputs: Tensor,
        lengths_B: Tensor | None,
        *,
        every_step: bool = False,
        products: torch.dtype | None = None,
        mixing: recurrence.Mixing | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """The trajectory, one stage (T, M, B, K), and the outputs at the last valid step (M, B, C), or (M, B, T, C) at every step."""
        h_TMBK = self.states(theta_MD, inputs, products=products, mixing=mixing)
        if every_step:
            return [h_TMBK], self.readout(h_TMBK.permute(1, 2, 0, 3))
        assert lengths_B is not None, "who answers at the end is told where that is"
        return [h_TMBK], self.readout(last_state(h_TMBK, lengths_B[None]))
