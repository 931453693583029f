"""The loss of DYNAMO (our reading of arXiv 2302.14078; the scaling is ours): mean over networks of hidden + lambda * output term.

    hidden  mean over valid steps (or positions) of |V h~ - h|^2 / (H s), s = mean per-unit variance of the network's own states; of
            networks with several stages, the mean over them
    output  classes: KL(base || meta); values: squared error over the variance of the network's own outputs;
            at the last valid step, or the mean over all valid steps where networks answer at every step or `output_steps` is "all"

and, our addition, mu * conjugacy term, which is off by default: V h~ = h makes the meta-model's dynamics at theta at least as rich as the
network's; where h gives h~ back, it is the same (a conjugacy), and has its fixed points and no others.

    conjugacy  share of the variance of h~ that no affine function of h gives; of several stages the mean

A trajectory is a list of stages: of recurrent networks one, (T, M, B, H); of others maps (M, B, H, y, x) or vectors (M, B, H).

Legend: M networks, B batch, T time, R rows, H units or channels, C outputs.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dynamo_dist.data import Output
from dynamo_dist.metamodel.config import MetaModelConfig


def valid_steps(lengths_B: Tensor, time: int, *, burn_in: int = 0) -> Tensor:
    """True where a step counts, False where it is padding or burn-in; shape (T*B,), time-major like the rows of the states."""
    step_T = torch.arange(time, device=lengths_B.device)
    mask_TB = (step_T[:, None] < lengths_B) & (step_T[:, None] >= burn_in)
    return mask_TB.reshape(-1)


def sequence_rows(h_TMBH: Tensor) -> Tensor:
    """States of sequences as rows (M, T*B, H)."""
    time, networks, batch, hidden = h_TMBH.shape
    return h_TMBH.transpose(0, 1).reshape(networks, time * batch, hidden)


def image_rows(stage: Tensor, size: Sequence[int] = ()) -> Tensor:
    """A stage (M, B, H, y, x) or (M, B, H) of images as rows (M, B*y*x, H), pooled to `size` where it is larger than that."""
    if stage.dim() == 3:
        return stage
    if tuple(size) not in ((), tuple(stage.shape[-2:])):
        rows, columns = size
        stage = functional.adaptive_avg_pool2d(stage.flatten(0, 1), (rows, columns)).unflatten(0, stage.shape[:2])
    return stage.permute(0, 1, 3, 4, 2).flatten(1, 3)


def match_stages(base: Sequence[Tensor], meta_stages: int) -> tuple[int, ...]:
    """For every stage of base networks the stage of the meta-model that it is mapped from: of sequences the one that there is; of images
    the map of the same relative depth, and for vectors (pooled features) the last, the meta-model's own pooled features."""
    maps = sum(stage.dim() == 5 for stage in base)
    sources, depth = [], 0
    for stage in base:
        depth += stage.dim() == 5
        sources.append(max(0, round(depth / maps * (meta_stages - 1)) - 1) if stage.dim() == 5 else meta_stages - 1)
    return tuple(sources)


def paired_rows(meta: Tensor, base: Tensor, *, rows: slice, sequences: bool) -> tuple[Tensor, Tensor]:
    """A stage of the meta-model, of the networks at `rows`, and the stage of base networks that it is mapped to, as rows (m, R, K) and
    (m, R, H). Of images the larger map is pooled to the smaller."""
    if sequences:
        return sequence_rows(meta[:, rows]), sequence_rows(base)
    size = tuple(min(own) for own in zip(meta.shape[3:], base.shape[3:], strict=False))
    return image_rows(meta[rows], size), image_rows(base, size)


def hidden_error(mapped_MRH: Tensor, target_MRH: Tensor, scale_M: Tensor, mask_R: Tensor | None = None) -> Tensor:
    """Scaled squared error per network, (M,): mean over (valid) rows of the squared distance, divided by `scale_M`."""
    square_MR = (mapped_MRH - target_MRH).square().sum(dim=-1)
    if mask_R is None:
        return square_MR.mean(dim=1) / scale_M
    return square_MR @ (mask_R.to(square_MR.dtype) / mask_R.sum().clamp(min=1)) / scale_M


# Of the mean square of a unit: what is added to the normal equations, as units are often nearly dependent.
_RIDGE = 1e-4


def conjugacy_error(meta_MRK: Tensor, base_MRH: Tensor, mask_R: Tensor | None = None) -> Tensor:
    """Share of the variance of the meta-model's states over (valid) rows that no affine function of the network's own gives, (M,). The gradient
    moves these parts and leaves the total variance alone."""
    if mask_R is not None:
        meta_MRK, base_MRH = meta_MRK[:, mask_R], base_MRH[:, mask_R]
    meta_MRK = meta_MRK - meta_MRK.mean(dim=1, keepdim=True)
    with torch.no_grad():
        base_MRH = base_MRH - base_MRH.mean(dim=1, keepdim=True)
        normal_MHH = base_MRH.mT @ base_MRH
        diagonal = normal_MHH.diagonal(dim1=1, dim2=2)
        diagonal += _RIDGE * diagonal.mean(dim=1, keepdim=True).clamp(min=1e-12)  # of units that never move: nothing is given by them
        # At the minimum, so no gradient goes through it.
        given_MRK = base_MRH @ torch.cholesky_solve(base_MRH.mT @ meta_MRK, torch.linalg.cholesky(normal_MHH))
        total_M = meta_MRK.square().sum(dim=(1, 2)).clamp(min=torch.finfo(base_MRH.dtype).tiny)
    return (meta_MRK - given_MRK).square().sum(dim=(1, 2)) / total_M


def output_error(base: Tensor, meta: Tensor, output: Output, *, lengths_B: Tensor | None, scale_M: Tensor) -> Tensor:
    """Output term per network, (M,). `base`: (M, B, C), or (M, B, T, C) at every step; of `meta` the first `output.size` count, and where it
    answers at every step and `base` at the last valid one, that one."""
    meta = meta[..., : output.size]
    if meta.dim() > base.dim():
        assert lengths_B is not None, "only sequences have steps"
        meta = meta[:, torch.arange(meta.shape[1], device=meta.device), lengths_B - 1]
    if output.kind == "classes":
        log_base, log_meta = base.log_softmax(dim=-1), meta.log_softmax(dim=-1)
        error = functional.kl_div(log_meta, log_base, log_target=True, reduction="none").sum(dim=-1)
    else:
        error = (meta - base).square().mean(dim=-1)
    if output.every_step:
        assert lengths_B is not None, "only sequences have steps"
        mask_BT = torch.arange(error.shape[2], device=error.device) < lengths_B[:, None]
        error_M = (error * mask_BT).sum(dim=(1, 2)) / mask_BT.sum()
    else:
        error_M = error.mean(dim=1)
    return error_M if output.kind == "classes" else error_M / scale_M


def hidden_scale(config: MetaModelConfig, variance_M: Tensor, width: int) -> Tensor:
    """What a network's squared hidden error is divided by, (M,)."""
    if config.hidden_scale == "variance":
        return variance_M * width
    return torch.full_like(variance_M, float(width) if config.hidden_scale == "dim" else 1.0)


def output_scale(config: MetaModelConfig, base: Tensor, output: Output, lengths_B: Tensor | None) -> Tensor:
    """What a network's squared output error is divided by, (M,); 1 for classes."""
    if output.kind == "classes" or config.output_scale == "none":
        return base.new_ones(len(base))
    rows_MRC = base
    if output.every_step:
        assert lengths_B is not None, "only sequences have steps"
        rows_MRC = base.flatten(1, 2)[:, (torch.arange(base.shape[2], device=base.device) < lengths_B[:, None]).flatten()]
    return variance(rows_MRC)


def variance(rows_MRH: Tensor) -> Tensor:
    """Mean over units of the variance over rows, (M,)."""
    return rows_MRH.var(dim=1, correction=0).mean(dim=-1).clamp(min=torch.finfo(rows_MRH.dtype).tiny)
