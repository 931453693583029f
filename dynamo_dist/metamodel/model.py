"""The shared half of the meta-model: F~ (a GRU that also reads theta), G~ and the initial state; and the private half: theta and V.

What is shared does not depend on the population; what is private belongs to one network each and lives on one worker.

Legend: M networks, B batch, T time, K meta hidden units, D embedding dimensions, H hidden units of a base network, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.networks import recurrence
from dynamo_dist.networks.stacked import last_state


class Dynamics(nn.Module):
    """F~, G~ and the learned initial state. theta enters the state update only, concatenated to the input.

    The product of theta with its rows of the input weights is formed once per network, that of the tokens once per position, so
    neither is repeated over networks times positions.
    """

    def __init__(self, *, vocabulary: int, classes: int, config: MetaModelConfig, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        hidden = config.hidden

        def uniform(*shape: int) -> nn.Parameter:
            return nn.Parameter(
                torch.empty(shape, dtype=torch.float64).uniform_(-(hidden**-0.5), hidden**-0.5, generator=generator).to(dtype)
            )

        blocks = [torch.linalg.qr(torch.randn(hidden, hidden, generator=generator, dtype=torch.float64))[0] for _ in range(3)]
        self.hidden = hidden
        self.embedding = nn.Parameter(torch.randn(vocabulary, config.embedding, generator=generator, dtype=torch.float64).to(dtype))
        self.w_input = uniform(config.embedding, 3 * hidden)
        # theta moves the gates by their natural size: entries of order one, unlike the weights of K summed units.
        self.w_theta = nn.Parameter(torch.randn(config.dimensions, 3 * hidden, generator=generator, dtype=torch.float64).mul(0.5).to(dtype))
        self.b_input = uniform(3 * hidden)
        self.w_recurrent = nn.Parameter(torch.cat(blocks, dim=1).to(dtype))
        self.b_candidate = uniform(hidden)
        self.initial_state = nn.Parameter(torch.zeros(hidden, dtype=dtype))
        self.w_readout = uniform(hidden, classes)
        self.b_readout = uniform(classes)

    def states(self, theta_MD: Tensor, tokens_BT: Tensor) -> Tensor:
        """Hidden states (T, M, B, K) for every theta on the same token ids (B, T), from the model's own initial state."""
        batch, time = tokens_BT.shape
        networks, hidden = theta_MD.shape[0], self.hidden
        if self.embedding.shape[0] < batch * time:
            x_TBG = functional.embedding(tokens_BT.T, torch.addmm(self.b_input, self.embedding, self.w_input))
        else:
            x_TBG = functional.embedding(tokens_BT.T, self.embedding) @ self.w_input + self.b_input
        theta_MG = theta_MD @ self.w_theta
        # One row per (network, sequence): the recurrent product is one matrix product over all of them.
        gates_T1RG = (x_TBG[:, None] + theta_MG[None, :, None]).view(time, 1, networks * batch, 3 * hidden)
        h_T1RK = recurrence.gru(
            gates_T1RG,
            self.w_recurrent[None],
            self.b_candidate[None, None],
            self.initial_state.expand(1, networks * batch, hidden),
        )
        return h_T1RK.view(time, networks, batch, hidden)

    def readout(self, h: Tensor) -> Tensor:
        """Logits (..., C) of states (..., K)."""
        return h @ self.w_readout + self.b_readout

    def forward(self, theta_MD: Tensor, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States (T, M, B, K) and logits (M, B, C) at the last valid step."""
        h_TMBK = self.states(theta_MD, tokens_BT)
        return h_TMBK, self.readout(last_state(h_TMBK, lengths_B[None]))


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Networks whose states have one width, in the order in which a worker keeps them."""

    ids: tuple[str, ...]
    hidden: int


class Private(nn.Module):
    """theta_n and the affine state map V_n: h = h~ weight_n + bias_n of every network of one worker, stacked by width.

    A network's initial map is a function of the seed and of its id, so it does not depend on which worker has it.
    """

    def __init__(self, cohorts: Sequence[Cohort], *, config: MetaModelConfig, dtype: torch.dtype) -> None:
        super().__init__()
        self.cohorts = tuple(cohorts)
        self.ids = tuple(id for cohort in cohorts for id in cohort.ids)
        self.theta = nn.Parameter(torch.zeros(len(self.ids), config.dimensions, dtype=dtype), requires_grad=config.use_theta)
        self.weight, self.bias = nn.ParameterList(), nn.ParameterList()
        for cohort in cohorts:
            maps = []
            for id in cohort.ids:
                generator = torch.Generator().manual_seed(_seed_of(config.seed, id))
                maps.append(torch.randn(config.hidden, cohort.hidden, generator=generator, dtype=torch.float64) * config.hidden**-0.5)
            self.weight.append(nn.Parameter(torch.stack(maps).to(dtype)))
            self.bias.append(nn.Parameter(torch.zeros(len(cohort.ids), 1, cohort.hidden, dtype=dtype)))

    def map_states(self, h_TMBK: Tensor) -> list[Tensor]:
        """V_n h~ per cohort, each of shape (m, T*B, H): one batched product per width."""
        time, networks, batch, hidden = h_TMBK.shape
        rows_MRK = h_TMBK.transpose(0, 1).reshape(networks, time * batch, hidden)
        parts = rows_MRK.split([len(cohort.ids) for cohort in self.cohorts])
        return [torch.baddbmm(b, part, w) for part, w, b in zip(parts, self.weight, self.bias, strict=True)]


def _seed_of(seed: int, id: str) -> int:
    """A 63-bit seed from the run's seed and a network's id, the same on every machine."""
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{seed}/{id}".encode()).digest()[:8], "big") >> 1
