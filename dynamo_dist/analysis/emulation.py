"""How well the meta-model at theta_n does what network n does, on inputs that neither was trained on.

A shard of networks can be scored on its own (`emulate_shard`), so this runs on any number of workers; `merge` puts the parts
together. Legend as in `metamodel/model.py`; N test sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dynamo_dist.metamodel import MetaModel
from dynamo_dist.metamodel.loss import valid_steps


@dataclass(frozen=True, kw_only=True)
class Emulation:
    """Scores of m networks, in the order of `ids`."""

    ids: tuple[str, ...]
    # Hidden R^2 = 1 - SSE / SST over valid steps and units, float64 (m,).
    hidden_r2: np.ndarray
    # Mean KL(base || meta) of the outputs, float64 (m,).
    output_kl: np.ndarray
    # Class that the base network and the meta-model at its theta give every sequence, int64 (m, N).
    base_class: np.ndarray
    meta_class: np.ndarray

    @property
    def agreement(self) -> np.ndarray:
        """Share of the sequences that both give the same class, (m,)."""
        return (self.base_class == self.meta_class).mean(axis=1)

    @property
    def disputed(self) -> np.ndarray:
        """Sequences on which the base networks do not all agree, bool (N,)."""
        return (self.base_class != self.base_class[0]).any(axis=0)

    @property
    def disputed_agreement(self) -> np.ndarray:
        """Agreement on the disputed sequences alone, (m,); NaN when there are none."""
        disputed = self.disputed
        if not disputed.any():
            return np.full(len(self.ids), np.nan)
        return (self.base_class == self.meta_class)[:, disputed].mean(axis=1)


@torch.no_grad()
def emulate_shard(meta_path: str, ids: Sequence[str]) -> Emulation:
    """Scores of these networks on the whole test part. Moments are summed in float64."""
    meta = MetaModel.open(meta_path)
    test = meta.population.data.test
    stacks = list(meta.population.stacks(ids))
    dtype = meta.dynamics.w_readout.dtype
    names = tuple(id for stack in stacks for id in stack.ids)
    maps = [tuple(torch.stack(part) for part in zip(*(meta.state_map(id) for id in stack.ids), strict=True)) for stack in stacks]
    sse, kl = torch.zeros(len(names), dtype=torch.float64), torch.zeros(len(names), dtype=torch.float64)
    moments = [[torch.zeros((), dtype=torch.float64) for _ in range(2)] for _ in stacks]  # sum and sum of squares, per unit
    rows = 0
    base_class, meta_class, order = [], [], []
    for index in meta.batches(test, len(names)):
        order.append(index)
        part = test.select(index)
        h_TMBK, meta_MBC = meta.dynamics(meta.theta(names), part.inputs, part.lengths_N)
        time, networks, size, hidden = h_TMBK.shape
        mask_R = valid_steps(part.lengths_N, time)
        rows += int(mask_R.sum())
        meta_rows_MRK = h_TMBK.transpose(0, 1).reshape(networks, time * size, hidden)
        base_logits, offset = [], 0
        for position, (stack, (weight, bias)) in enumerate(zip(stacks, maps, strict=True)):
            h_TMBH, logits_MBC = stack.networks.to(dtype)(part.inputs[None], part.lengths_N[None])
            count = len(stack.ids)
            target_MRH = h_TMBH.transpose(0, 1).reshape(count, time * size, -1)
            mask_R1 = mask_R.to(dtype)[:, None]
            error_MRH = (torch.baddbmm(bias, meta_rows_MRK[offset : offset + count], weight) - target_MRH) * mask_R1
            sse[offset : offset + count] += error_MRH.square().sum(dim=(1, 2)).double()
            target_MRH = target_MRH * mask_R1
            moments[position][0] = moments[position][0] + target_MRH.sum(dim=1).double()
            moments[position][1] = moments[position][1] + target_MRH.square().sum(dim=1).double()
            base_logits.append(logits_MBC)
            offset += count
        base_MBC = torch.cat(base_logits)
        log_base, log_meta = base_MBC.double().log_softmax(-1), meta_MBC.double().log_softmax(-1)
        kl += (log_base.exp() * (log_base - log_meta)).sum(dim=(1, 2))
        base_class.append(base_MBC.argmax(dim=-1))
        meta_class.append(meta_MBC.argmax(dim=-1))
    sst = torch.cat([(square - total.square() / rows).sum(dim=1) for total, square in moments])
    back = torch.argsort(torch.cat(order))  # into the order of the test part
    return Emulation(
        ids=names,
        hidden_r2=(1 - sse / sst).numpy(),
        output_kl=(kl / len(test)).numpy(),
        base_class=torch.cat(base_class, dim=1)[:, back].numpy(),
        meta_class=torch.cat(meta_class, dim=1)[:, back].numpy(),
    )


def merge(parts: Sequence[Emulation], ids: Sequence[str]) -> Emulation:
    """The scores of several shards as one, in the order of `ids`."""
    place = {id: index for index, id in enumerate(id for part in parts for id in part.ids)}
    order = [place[id] for id in ids]

    def join(field: str) -> np.ndarray:
        return np.concatenate([getattr(part, field) for part in parts])[order]

    fields = ("hidden_r2", "output_kl", "base_class", "meta_class")
    return Emulation(ids=tuple(ids), **{field: join(field) for field in fields})


def emulation(meta: MetaModel) -> Emulation:
    """Scores of the whole population, in one process."""
    return merge([emulate_shard(str(meta.path), meta.network_ids)], meta.network_ids)
