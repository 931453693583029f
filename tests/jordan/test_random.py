"""A thousand random pencils: sizes, structures, kinds, norms from 1e-8 to 1e8. An answer is right or refused, never silently wrong."""

import numpy as np
import pytest

from jordan_dist import NotConvergedError, jordan_chain
from jordan_dist.planted import planted_pencil

STRUCTURES = [(2,), (3,), (4,), (2, 1), (2, 2), (3, 1), (1, 1), (1, 1, 1)]
BATCHES, CASES = 10, 100


def case(seed):
    """A pencil with its truth: eigenvalue and structure come from how it is made."""
    rng = np.random.default_rng([6, seed])
    blocks = STRUCTURES[rng.integers(len(STRUCTURES))]
    kind = {name: bool(rng.integers(2)) for name in ("generalized", "real", "symmetric")}
    if kind["real"] and kind["symmetric"]:
        kind["generalized"] = True
    planted = planted_pencil(*blocks, n=int(rng.integers(sum(blocks) + 3, 25)), seed=seed, **kind)
    a, b = 10.0 ** rng.uniform(-8, 8, 2)
    if planted.B0 is None:
        b = 1.0
    size = sum(blocks) if rng.random() < 0.8 else int(rng.integers(2, 5))
    offset = 10.0 ** rng.uniform(-6, -1) * np.exp(2j * np.pi * rng.random())
    target = (planted.eigenvalue + offset) * a / b
    return planted, planted.A0 * a, None if planted.B0 is None else planted.B0 * b, a / b, size, target


def verdict_of(blocks):
    return "semisimple" if max(blocks) == 1 else "block" if len(blocks) == 1 else "blocks"


@pytest.mark.parametrize("batch", range(BATCHES))
def test_no_silent_wrong_answer(batch):
    answers = 0
    for seed in range(batch * CASES, (batch + 1) * CASES):
        planted, A, B, scale, size, target = case(seed)
        try:
            chain = jordan_chain(A, B, target=target, size=size)
        except NotConvergedError:
            continue
        answers += 1
        if size == sum(planted.blocks):
            where = f"case {seed}: {planted.blocks}"
            assert chain.verdict == verdict_of(planted.blocks), where
            assert abs(chain.eigenvalue / scale - planted.eigenvalue) < 1e-7, where
            P, Q = (V @ W.conj().T for V, W in ((planted.vectors, planted.left_vectors), (chain.vectors, chain.left_vectors)))
            Q = Q * (np.linalg.norm(B) / np.linalg.norm(planted.B0) if B is not None else 1)
            assert np.linalg.norm(P - Q) < 1e-6 * np.linalg.norm(P), where
            continue
        # another size than the structure has: whatever the answer, its own relations must hold
        V, k = chain.vectors, size
        BV = V if B is None else B @ V
        M = np.linalg.lstsq(BV, A @ V, rcond=None)[0]
        assert np.linalg.norm(A @ V - BV @ M) < 1e-8 * np.linalg.norm(A @ V), f"case {seed}: {planted.blocks}, size {k}"
        assert abs(np.trace(M) / k - chain.eigenvalue) < 1e-7 * abs(np.trace(M) / k), f"case {seed}: {planted.blocks}, size {k}"
    assert answers > 0.6 * CASES
