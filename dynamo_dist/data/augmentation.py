"""Random changes of training images, each network of a stack with its own policy and its own random numbers.

What a network sees is a function of its seed and of the step: trained alone or in any stack it gets the same bits.

    none
    crop_flip   padded with zeros by an eighth of the side (4 pixels of 32), cropped to the old size anywhere, mirrored half of the time
    cutout      a square hole of zeros, a quarter of the side wide (8 of 32), centred on any pixel, cut off at the edges
                (DeVries and Taylor, arXiv 1708.04552)
    mixup       a weighted mean with another image of the batch, weight uniform in 0..1: Beta(1, 1) (Zhang et al., arXiv 1710.09412);
                the loss is the same mean, of the losses against the two targets

Legend: M networks, B images of a batch, C channels, Y rows, X columns.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from dynamo_dist.errors import InputError

KINDS = ("none", "crop_flip", "cutout", "mixup")


def augment(images_BCYX: Tensor, kind: str, rng: np.random.Generator) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The changed float images of one network, and for `mixup` the partner of each (int64 (B,)) and its own weight (float (B,)), else None.

    With partner and weight the loss of example b is weight_b * loss(y_b) + (1 - weight_b) * loss(y_partner_b).
    """
    if kind == "none":
        return images_BCYX, None, None
    if kind == "crop_flip":
        return _crop_flip(images_BCYX, rng), None, None
    if kind == "cutout":
        return _cutout(images_BCYX, rng), None, None
    if kind == "mixup":
        count = len(images_BCYX)
        partner_B = torch.from_numpy(rng.permutation(count)).to(images_BCYX.device)
        weight_B = torch.from_numpy(rng.random(count)).to(images_BCYX)
        weight_B111 = weight_B[:, None, None, None]
        return weight_B111 * images_BCYX + (1 - weight_B111) * images_BCYX[partner_B], partner_B, weight_B
    raise InputError(f"unknown augmentation {kind!r}: expected {', '.join(KINDS)}")


def own_stream(seed: int, step: int) -> np.random.Generator:
    """The random numbers of a network's augmentation at a step. The 2 keeps them apart from those of the order of its data."""
    return np.random.default_rng((seed, 2, step))


def augment_stack(
    images_MBCYX: Tensor, kinds: Sequence[str], seeds: Sequence[int], step: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """`augment` for every network with the random numbers of its seed and the step; partners (M, B) and weights (M, B).

    A network without mixup is its own partner with weight 1, which leaves its loss as it was; both are None where no network mixes.
    """
    images, partners, weights = zip(
        *(augment(images_BCYX, kind, own_stream(seed, step)) for images_BCYX, kind, seed in zip(images_MBCYX, kinds, seeds, strict=True)),
        strict=True,
    )
    if "mixup" not in kinds:
        return torch.stack(images), None, None
    itself_B = torch.arange(images_MBCYX.shape[1], device=images_MBCYX.device)
    one_B = images_MBCYX.new_ones(images_MBCYX.shape[1])
    return (
        torch.stack(images),
        torch.stack([itself_B if partner is None else partner for partner in partners]),
        torch.stack([one_B if weight is None else weight for weight in weights]),
    )


def _crop_flip(images_BCYX: Tensor, rng: np.random.Generator) -> Tensor:
    count, _, rows, columns = images_BCYX.shape
    border_y, border_x = rows // 8, columns // 8
    y_BY = rng.integers(2 * border_y + 1, size=(count, 1)) + np.arange(rows)
    x_BX = rng.integers(2 * border_x + 1, size=(count, 1)) + np.arange(columns)
    mirrored_B = rng.random(count) < 0.5
    x_BX[mirrored_B] = x_BX[mirrored_B, ::-1]
    rows_BY, columns_BX = (torch.from_numpy(index).to(images_BCYX.device) for index in (y_BY, x_BX))
    # One gather for crop and mirror; channels last, because indices around a slice put it there anyway.
    padded_BYXC = pad(images_BCYX, (border_x, border_x, border_y, border_y)).permute(0, 2, 3, 1)
    image_B11 = torch.arange(count, device=images_BCYX.device)[:, None, None]
    return padded_BYXC[image_B11, rows_BY[:, :, None], columns_BX[:, None, :]].permute(0, 3, 1, 2).contiguous()


def _cutout(images_BCYX: Tensor, rng: np.random.Generator) -> Tensor:
    count, _, rows, columns = images_BCYX.shape

    def hole(side: int) -> Tensor:
        """Which of the `side` positions lie in the hole, bool (B, side)."""
        size = side // 4
        start = rng.integers(side, size=(count, 1)) - size // 2
        position = np.arange(side)
        return torch.from_numpy((position >= start) & (position < start + size)).to(images_BCYX.device)

    hole_BYX = hole(rows)[:, :, None] & hole(columns)[:, None, :]
    return images_BCYX.masked_fill(hole_BYX[:, None], 0)
