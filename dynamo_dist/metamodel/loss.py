"""The loss of DYNAMO (our reading of arXiv 2302.14078; the scaling is ours): mean over networks of hidden + lambda * output term.

    hidden  mean over valid steps of |V h~ - h|^2 / (H s),  s = mean per-unit variance of the network's own states
    output  KL(base || meta) at the last valid step

Legend as in `model.py`.
"""

import torch
from torch import Tensor
from torch.nn import functional

from dynamo_dist.metamodel.config import MetaModelConfig


def valid_steps(lengths_B: Tensor, time: int, *, burn_in: int = 0) -> Tensor:
    """1 where a step counts, 0 where it is padding or burn-in; shape (T*B,), time-major like the rows of the states.

    Each sequence's steps are weighted so that the mean over them is a sum over rows: weight 1 / (valid steps of the batch).
    """
    step_T = torch.arange(time, device=lengths_B.device)
    mask_TB = (step_T[:, None] < lengths_B) & (step_T[:, None] >= burn_in)
    return mask_TB.reshape(-1)


def hidden_error(mapped_MRH: Tensor, h_TMBH: Tensor, mask_R: Tensor, scale_M: Tensor) -> Tensor:
    """Scaled squared error per network, (M,): mean over valid rows of the squared distance, divided by `scale_M`."""
    time, networks, batch, hidden = h_TMBH.shape
    target_MRH = h_TMBH.transpose(0, 1).reshape(networks, time * batch, hidden)
    square_MR = (mapped_MRH - target_MRH).square().sum(dim=-1)
    weight_R = mask_R.to(square_MR.dtype) / mask_R.sum().clamp(min=1)
    return square_MR @ weight_R / scale_M


def output_error(base_MBC: Tensor, meta_MBC: Tensor) -> Tensor:
    """KL(softmax base || softmax meta), mean over the batch, (M,)."""
    return (
        functional.kl_div(meta_MBC.log_softmax(dim=-1), base_MBC.log_softmax(dim=-1), log_target=True, reduction="none")
        .sum(dim=-1)
        .mean(dim=-1)
    )


def hidden_scale(config: MetaModelConfig, variance_M: Tensor, hidden: int) -> Tensor:
    """What a network's squared hidden error is divided by, (M,)."""
    if config.hidden_scale == "variance":
        return variance_M * hidden
    return torch.full_like(variance_M, float(hidden) if config.hidden_scale == "dim" else 1.0)


def state_variance(h_TMBH: Tensor, mask_R: Tensor) -> Tensor:
    """Mean over units of the variance of the state over valid rows, (M,)."""
    time, networks, batch, hidden = h_TMBH.shape
    rows_MRH = h_TMBH.transpose(0, 1).reshape(networks, time * batch, hidden)[:, mask_R]
    return rows_MRH.var(dim=1, correction=0).mean(dim=-1).clamp(min=torch.finfo(rows_MRH.dtype).tiny)
