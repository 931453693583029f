"""Dynamical similarity analysis (Ostrow et al., arXiv 2306.10168): networks compared by the linear dynamics of their delay-embedded states.

Every network's states, with those of the last steps beside them, are reduced to a few coordinates in which one matrix A takes each step
to the next one (HAVOK, a dynamic mode decomposition). Two networks are as far apart as the angle that no orthogonal change of these
coordinates removes:

    min over orthogonal C of  arccos( tr(A^T C B C^T) / (|A| |B|) )

Networks need not be fed the same inputs for that.

Legend: M networks, m of one block, B sequences, T time, H units, W windows (delays * H numbers each), r rank, P pairs times starts.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Steps in a window, and coordinates that are kept of it.
DELAYS = 4
RANK = 10
# Random starts for each pair, beside the one from the symmetric parts, and ascent steps at most for each. With 32 starts of 600 steps, angles of
# 0.05 to 0.4 between recurrent networks (r = 10) are lower by 3e-5 in the mean and by 7e-4 at most, and take five times as long.
STARTS = 8
STEPS = 300
# Ascent ends where two steps in a row change the cosine by less.
TOLERANCE = 1e-8
# Pairs that are optimised at once.
PAIRS = 2048


def operator(h_BTH: np.ndarray, lengths_B: np.ndarray, *, delays: int = DELAYS, rank: int = RANK) -> np.ndarray:
    """The matrix A of one network, float64 (r, r), r = `rank` or less if its windows have fewer directions.

    `h_BTH`: states; steps from `lengths_B` on are left out, and so are sequences without two windows. All NaN where none has two.
    """
    windows, follows = [], []
    for h_TH, length in zip(h_BTH, lengths_B.tolist(), strict=True):
        if length > delays:
            # The latest step first.
            parts = [h_TH[delays - 1 - back : length - back] for back in range(delays)]
            windows.append(np.concatenate(parts, axis=1, dtype=np.float64))
            follows.append(np.arange(len(windows[-1])) > 0)
    if not windows:
        return np.full((rank, rank), np.nan)
    left, singular, _ = np.linalg.svd(np.concatenate(windows), full_matrices=False)
    count = int((singular[:rank] > singular[0] * max(left.shape) * np.finfo(np.float64).eps).sum())
    coordinates_Wr, follows_W = left[:, :count], np.concatenate(follows)
    before_Wr, after_Wr = coordinates_Wr[:-1][follows_W[1:]], coordinates_Wr[follows_W]
    a_rr: np.ndarray = np.linalg.lstsq(before_Wr, after_Wr)[0].T
    return a_rr


def distances(operators: Sequence[np.ndarray], *, seed: int = 0) -> np.ndarray:
    """Angles between all pairs of operators, symmetric float64 (M, M), in 0..pi; NaN where an operator is not finite, or 0.

    Smaller operators are padded with zeros to the largest. The smallest angles that are found from several starts: there may be smaller
    ones.
    """
    count, rank = len(operators), max(map(len, operators))
    a_Mrr = torch.zeros(count, rank, rank, dtype=torch.float64)
    for row, own in enumerate(operators):
        a_Mrr[row, : len(own), : len(own)] = torch.from_numpy(own)
    found = np.full((count, count), np.nan)
    np.fill_diagonal(found, 0.0)
    known = torch.isfinite(a_Mrr).flatten(1).all(dim=1) & (a_Mrr.flatten(1).abs().sum(dim=1) > 0)
    first, second = torch.triu_indices(count, count, 1)
    both = known[first] & known[second]
    first, second = first[both], second[both]
    generator = torch.Generator().manual_seed(seed)
    starts_srr = torch.linalg.qr(torch.randn(STARTS, rank, rank, generator=generator, dtype=torch.float64))[0]
    for i, j in zip(first.split(PAIRS), second.split(PAIRS), strict=True):
        angle_P = best_cosine(a_Mrr[i], a_Mrr[j], starts_srr).clamp(-1, 1).arccos().numpy()
        rows, columns = i.numpy(), j.numpy()
        found[rows, columns] = found[columns, rows] = angle_P
    return found


def best_cosine(a_Prr: Tensor, b_Prr: Tensor, starts_srr: Tensor) -> Tensor:
    """Largest tr(A^T C B C^T) / (|A| |B|) over orthogonal C that is found for each of P pairs, (P,).

    g(C) = tr(A^T C B C^T) + 2 s |C|^2, s the product of the spectral norms, is convex (twice over). So the orthogonal matrix that maximises
    its linear part, the nearest one to the gradient, never lowers g, and |C| is the same for all C: every step ascends, and there is no
    step size. Multiples of the identity are the same for every C and are taken out before: s is smaller without, and steps larger. With
    Nesterov's momentum, dropped where it would descend, a tenth of the steps is enough.
    """
    pairs, starts, rank = len(a_Prr), 1 + len(starts_srr), a_Prr.shape[-1]
    a, b = (x / torch.linalg.matrix_norm(x)[:, None, None] for x in (a_Prr, b_Prr))
    means = [torch.diagonal(x, dim1=1, dim2=2).mean(dim=1) for x in (a, b)]
    a, b = (x - mean[:, None, None] * torch.eye(rank, dtype=x.dtype) for x, mean in zip((a, b), means, strict=True))
    c = torch.cat([_symmetric_start(a, b)[:, None], starts_srr.expand(pairs, *starts_srr.shape)], dim=1).flatten(0, 1)
    a, b = (x.repeat_interleave(starts, dim=0) for x in (a, b))
    # Of the gradient's spectral norm.
    bound = 2 * (torch.linalg.matrix_norm(a, 2) * torch.linalg.matrix_norm(b, 2)).clamp(min=1e-30)[:, None, None]
    value, before = _cosine(a, b, c), c.clone()
    steps, still = torch.zeros_like(value), torch.zeros_like(value)  # since the momentum was dropped; in a row with hardly a change
    active = torch.arange(len(c))
    for _ in range(STEPS):
        own_a, own_b, own_c, step = a[active], b[active], c[active], steps[active]
        ahead = own_c + (step / (step + 3))[:, None, None] * (own_c - before[active])
        gradient = own_a @ ahead @ own_b.mT + own_a.mT @ ahead @ own_b
        new = _nearest_orthogonal(gradient / (3 * bound[active]) + 2 / 3 * ahead)
        gained = _cosine(own_a, own_b, new) - value[active]
        higher = gained >= 0
        before[active], c[active] = own_c, torch.where(higher[:, None, None], new, own_c)
        value[active] += gained.clamp(min=0)
        steps[active] = torch.where(higher, step + 1, 0)
        still[active] = torch.where(gained.abs() < TOLERANCE, still[active] + 1, 0)
        active = active[still[active] < 2]
        if not len(active):
            break
    left, _, right = torch.linalg.svd(c)  # exactly orthogonal
    return _cosine(a, b, left @ right).view(pairs, starts).max(dim=1).values + rank * means[0] * means[1]


def _nearest_orthogonal(x: Tensor) -> Tensor:
    """By Newton-Schulz iterations, ten times as fast as by factors; to 1e-11 for singular values in 1/3..1, which momentum leaves a little."""
    for _ in range(7):
        x = 1.5 * x - 0.5 * x @ (x.mT @ x)
    return x


def _cosine(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return (a * (c @ b @ c.mT)).sum(dim=(1, 2))


def _symmetric_start(a: Tensor, b: Tensor) -> Tensor:
    """Start from the eigenvectors of both symmetric parts, matched by rank. Their signs are the leading eigenvector of what the
    other entries agree on. It is the solution where A and B differ by an orthogonal change of coordinates alone."""
    own, other = (torch.linalg.eigh((x + x.mT) / 2)[1] for x in (a, b))
    agree = (own.mT @ a @ own) * (other.mT @ b @ other)
    sign = torch.linalg.eigh((agree + agree.mT) / 2)[1][:, :, -1].sign()
    start_Prr: Tensor = own @ (torch.where(sign == 0, 1.0, sign)[..., None] * other.mT)
    return start_Prr
