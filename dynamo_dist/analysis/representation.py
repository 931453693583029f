"""Distances between representations: what networks of any widths give on the same inputs, compared up to what each measure ignores.

    cka         1 - linear CKA (Kornblith et al., arXiv 1905.00414) with the unbiased estimator of HSIC (Song et al., 2012)
    svcca       1 - mean canonical correlation of the directions that hold 99 % of the variance (Raghu et al., arXiv 1706.05806)
    pwcca       1 - canonical correlations weighted by how much of a network they account for (Morcos et al., arXiv 1806.05759), the mean
                of both directions
    procrustes  arccos of the nuclear norm of X^T Y / (|X| |Y|), X and Y centred: the angle that is left after the best rotation
                (Williams et al., arXiv 2110.14739)

All four follow from X = U S V^T (centred): whatever belongs to a pair is in the small matrix U_m^T U_n. Factors lie in files, so memory
holds one block of networks and one network at a time, whatever M.

Legend: M networks, m of one block, R rows (the same inputs and steps for all), H units; letters of a pair: A of one, B of m others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MEASURES = ("cka", "svcca", "pwcca", "procrustes")
# Share of the variance that SVCCA keeps.
VARIANCE = 0.99


@dataclass(frozen=True, kw_only=True)
class Block:
    """Representations of m networks of one width, centred and factored, in memory or mapped from files; float64."""

    # Left singular vectors (m, R, k), singular values (m, k) and right singular vectors (m, k, H), k = min(R, H). Beyond the rank of a
    # network its vectors and values are 0.
    left: np.ndarray
    singular: np.ndarray
    right: np.ndarray
    # Squared norm of every centred row, (m, R).
    square: np.ndarray

    def __len__(self) -> int:
        return len(self.left)


def factor(x_mRH: np.ndarray, folder: Path, name: str) -> Block:
    """The representations of m networks, floats (m, R, H), factored; the large factor goes to a file of this name in the folder."""
    centred = x_mRH.astype(np.float64)
    centred -= centred.mean(axis=1, keepdims=True)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    known = singular > singular[:, :1] * max(centred.shape[1:]) * np.finfo(np.float64).eps
    np.save(folder / f"{name}.npy", left * known[:, None])
    return Block(
        left=np.load(folder / f"{name}.npy", mmap_mode="r"),
        singular=singular * known,
        right=right * known[..., None],
        square=(centred**2).sum(axis=-1),
    )


def distances(blocks: Sequence[Block]) -> dict[str, np.ndarray]:
    """Every measure between all networks of the blocks, in their order: symmetric float64 (M, M), 0 on the diagonal.

    NaN against a network whose representation is constant, and of `cka` with fewer than 4 rows.
    """
    ends = np.cumsum([len(block) for block in blocks])
    found = {name: np.zeros((ends[-1], ends[-1])) for name in MEASURES}
    for j, other in enumerate(blocks):
        others = _Others(other)
        columns = np.arange(ends[j] - len(other), ends[j])
        for i, block in enumerate(blocks[: j + 1]):
            for position in range(len(block)):
                row = ends[i] - len(block) + position
                for name, distance in others.distances_to(block, position).items():
                    found[name][row, columns] = found[name][columns, row] = distance
    for distance in found.values():
        np.fill_diagonal(distance, 0.0)
    return found


class _Others:
    """A block, read once, to which single networks are compared."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.left_RmB = np.ascontiguousarray(block.left.transpose(1, 0, 2))
        self.kept_mB = _kept(block.singular)
        self.norm_m = np.array([_hsic(s**4, q, q) for s, q in zip(block.singular, block.square, strict=True)])

    def distances_to(self, block: Block, position: int) -> dict[str, np.ndarray]:
        """Of one network to all of these, (m,)."""
        singular_A, square_R = block.singular[position], block.square[position]
        networks, other_m = len(self.block), self.block.singular
        overlap_mAB = (block.left[position].T @ self.left_RmB.reshape(len(square_R), -1)).reshape(-1, networks, other_m.shape[1])
        overlap_mAB = overlap_mAB.transpose(1, 0, 2)
        product_mAB = singular_A[:, None] * overlap_mAB * other_m[:, None]  # X^T Y up to rotations
        with np.errstate(divide="ignore", invalid="ignore"):
            hsic_m = np.array([_hsic(p**2, square_R, q) for p, q in zip(product_mAB, self.block.square, strict=True)])
            cka_m = hsic_m / np.sqrt(_hsic(singular_A**4, square_R, square_R) * self.norm_m)
            nuclear_m = np.linalg.svd(product_mAB, compute_uv=False).sum(axis=-1)
            cosine_m = nuclear_m / (np.linalg.norm(singular_A) * np.linalg.norm(other_m, axis=-1))
            kept_A = _kept(singular_A)
            shared = np.linalg.svd(overlap_mAB * kept_A[:, None] * self.kept_mB[:, None], compute_uv=False)
            svcca_m = np.minimum(shared, 1).sum(axis=-1) / np.minimum(kept_A.sum(), self.kept_mB.sum(axis=-1))
            pwcca_m = self._pwcca(overlap_mAB, singular_A, block.right[position])
        return {"cka": 1 - cka_m, "svcca": 1 - svcca_m, "pwcca": 1 - pwcca_m, "procrustes": np.arccos(np.minimum(cosine_m, 1))}

    def _pwcca(self, overlap_mAB: np.ndarray, singular_A: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Weighted canonical correlations, the mean of both directions, (m,)."""
        own_mAc, correlation_mc, other_mcB = np.linalg.svd(overlap_mAB, full_matrices=False)
        # As many directions as the smaller of both ranks; the others correlate with nothing and are of no network in particular.
        rank_m = np.minimum((singular_A > 0).sum(), (self.block.singular > 0).sum(axis=-1))
        counted_mc = np.arange(correlation_mc.shape[1]) < rank_m[:, None]
        # Sum over units of |<canonical variable, unit>|.
        own = np.abs(own_mAc.transpose(0, 2, 1) @ (singular_A[:, None] * right)).sum(axis=-1)
        other = np.abs(other_mcB @ (self.block.singular[..., None] * self.block.right)).sum(axis=-1)
        correlation_mc = np.minimum(correlation_mc, 1)
        both = [(correlation_mc * w * counted_mc).sum(axis=-1) / (w * counted_mc).sum(axis=-1) for w in (own, other)]
        mean_m: np.ndarray = (both[0] + both[1]) / 2
        return mean_m


def _kept(singular: np.ndarray) -> np.ndarray:
    """Where the first directions are that hold 99 % of the variance, bool, of singular values (..., k)."""
    before = np.cumsum(singular**2, axis=-1) - singular**2
    kept: np.ndarray = (before < VARIANCE * (singular**2).sum(axis=-1, keepdims=True)) & (singular > 0)
    return kept


def _hsic(squares: np.ndarray, first_R: np.ndarray, second_R: np.ndarray) -> float:
    """Unbiased HSIC of linear kernels of centred rows, up to the factor R (R - 3), from the sum of the `squares` of X^T Y and the
    squared norms of the rows.

    With kernels K, L whose diagonals are set to 0 it is tr(K L) + sum K sum L / ((R-1)(R-2)) - 2/(R-2) 1^T K L 1 (Song et al., 2012,
    equation 5), and of centred rows K 1 is the negative of the diagonal that was taken out.
    """
    rows = len(first_R)
    if rows < 4:
        return np.nan
    hsic: float = squares.sum() - rows / (rows - 2) * first_R @ second_R + first_R.sum() * second_R.sum() / ((rows - 1) * (rows - 2))
    return hsic
