"""What a chain costs on a built-in problem, and what other libraries need for its two eigenvalues alone, in one run and in turn.

Each of these runs the same matrices to a result from nothing but them; times are medians, `processor` those of all ranks, which other
work on the machine changes less; memory is the sum over the ranks of the largest resident size while the method ran.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
import scipy.sparse.linalg

from jordan_dist import memory
from jordan_dist.chain import JordanChain, jordan_chain
from jordan_dist.exceptional import find_exceptional_point
from jordan_dist.problems import Problem, destroy
from jordan_dist.quadratic import QuadraticPencil

OWN = ("chain", "second-order", "search")
PEERS = ("scipy", "slepc", "slepc-tuned")
LARGEST_FOR_SCIPY = 250_000  # its factors are those of one process, and take minutes beyond
TOLERANCE = 1e-10  # of the peers and of the chains; a search goes to rounding


def methods_for(problem: Problem, comm: Any = None) -> tuple[str, ...]:
    """What can be measured: the methods here, and the peers that are installed and can have the problem (no quadratic one)."""
    if isinstance(problem.A0, QuadraticPencil):
        return OWN
    found = [*OWN]
    if problem.n <= LARGEST_FOR_SCIPY:
        found.append("scipy")
    if comm is not None and _slepc_is_there():
        found += ["slepc", "slepc-tuned"]
    return tuple(found)


def _slepc_is_there() -> bool:
    try:
        import slepc4py  # noqa: F401
    except ImportError:
        return False
    return True


def measure(problem: Problem, methods: Sequence[str], repeat: int, comm: Any = None) -> dict[str, Any]:
    """The methods in turn, `repeat` times, on the pencil at `problem.nearby` (the search from `problem.start`); collective.

    The dictionary has, by method, `seconds` (of the phases that the method has, medians), `totals` (of every run), `peak_memory_bytes`
    (the largest of the runs), `eigenvalues`, and of the methods here residuals, counts and `errors` against `problem.known`.
    """
    begun = time.perf_counter()
    A, B, dA, dB = problem.pencil(problem.nearby, comm)
    assembly = time.perf_counter() - begun
    family = problem.family(comm) if "search" in methods else None
    whole = problem.pencil(problem.nearby)[:2] if "scipy" in methods and (comm is None or comm.rank == 0) else None
    run: dict[str, Callable[[], dict[str, Any]]] = {
        "chain": lambda: _of_chain(jordan_chain(A, B, target=problem.target, size=problem.size, tolerance=TOLERANCE)),
        "second-order": lambda: _second_order(
            problem, jordan_chain(A, B, target=problem.target, size=problem.size, dA=dA, dB=dB, tolerance=TOLERANCE)
        ),
        "search": lambda: _search(problem, family),
        "scipy": lambda: _scipy(problem, *(whole or ())),
        "slepc": lambda: _slepc(problem, A, B, comm, tuned=False),
        "slepc-tuned": lambda: _slepc(problem, A, B, comm, tuned=True),
    }
    runs: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for _ in range(repeat):
        for method in methods:
            runs[method].append(_timed(run[method], comm, everywhere=method != "scipy"))
    destroy(A, B, *dA, *dB)
    if family is not None:
        destroy(family.A0, *family.dA, family.B0, *family.dB)
    found = {method: _median(of) for method, of in runs.items()}
    return {"seconds": {"assembly": assembly}, "methods": found, "ratios": _ratios(found)}


def _timed(run: Callable[[], dict[str, Any]], comm: Any, *, everywhere: bool) -> dict[str, Any]:
    """What a run returns, with its time and memory, on every rank. A run that is not for everywhere is for rank 0."""
    mine = everywhere or comm is None or comm.rank == 0
    memory.forget_peak()
    if comm is not None:
        comm.Barrier()
    begun, processor = time.perf_counter(), time.process_time()
    result = run() if mine else {}
    total, processor = time.perf_counter() - begun, time.process_time() - processor
    result.setdefault("seconds", {})
    peak = memory.peak() if mine else 0
    if comm is not None:
        from jordan_dist.backends.petsc import MPI

        peak, processor = (comm.allreduce(value if mine else 0) for value in (peak, processor))
        result = comm.bcast(result)
        total = comm.allreduce(total if mine else 0.0, MPI.MAX)
    result["seconds"] |= {"total": total, "processor": processor}
    return result | {"peak_memory_bytes": peak}


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = {phase: median(run["seconds"][phase] for run in runs) for phase in runs[0]["seconds"]}
    peak = max(run["peak_memory_bytes"] for run in runs)
    totals = [run["seconds"]["total"] for run in runs]
    return runs[-1] | {"seconds": seconds, "totals": totals, "peak_memory_bytes": peak}


def _ratios(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of every method here to every peer: total time and memory."""
    return {
        f"{own} / {peer}": {
            "time": found[own]["seconds"]["total"] / found[peer]["seconds"]["total"],
            "memory": found[own]["peak_memory_bytes"] / found[peer]["peak_memory_bytes"],
        }
        for own in OWN
        for peer in PEERS
        if own in found and peer in found
    }


def _of_chain(chain: JordanChain) -> dict[str, Any]:
    cost = chain.cost
    destroy(chain.vectors, chain.left_vectors, chain.original_vectors)
    return {
        "seconds": {"factor": cost.factor_seconds, "solve": cost.solve_seconds},
        "factorizations": cost.factorizations,
        "solves": cost.solves,
        "reductions": cost.reductions,
        "reduced_bytes": cost.reduced_bytes,
        "eigenvalues": np.linalg.eigvals(chain.matrix),
        "verdict": chain.verdict,
        "subspace_residual": chain.subspace_residual,
        "chain_residuals": chain.chain_residuals,
        "backward_error": chain.backward_error,
    }


def _second_order(problem: Problem, chain: JordanChain) -> dict[str, Any]:
    there = None if chain.step is None else np.add(problem.nearby, chain.step)
    return _of_chain(chain) | {"errors": _errors(problem, there, chain.eigenvalue)}


def _search(problem: Problem, family: Any) -> dict[str, Any]:
    point = find_exceptional_point(family, problem.start, target=problem.target, size=problem.size)
    return _of_chain(point.chain) | {"steps": len(point.history), "errors": _errors(problem, point.parameters, point.chain.eigenvalue)}


def _errors(problem: Problem, parameters: Any, eigenvalue: complex) -> dict[str, float] | None:
    if problem.known is None or parameters is None:
        return None
    known_parameters, known_eigenvalue = problem.known
    distance = np.linalg.norm(np.subtract(parameters, known_parameters))
    return {"parameters": float(distance), "eigenvalue": float(abs(eigenvalue - known_eigenvalue))}


def _scipy(problem: Problem, A: Any, B: Any) -> dict[str, Any]:
    """ARPACK by shift and invert. It takes B for Hermitian and positive semi-definite, and is wrong without a word where it is not."""
    B = None if B is None else B.tocsc()
    start = np.random.default_rng(0).standard_normal(problem.n)  # its own differs from call to call
    values = scipy.sparse.linalg.eigs(A.tocsc().astype(complex), k=problem.size, M=B, sigma=problem.target, tol=TOLERANCE, v0=start)[0]
    return {"eigenvalues": values}


def _slepc(problem: Problem, A: Any, B: Any, comm: Any, *, tuned: bool) -> dict[str, Any]:
    """Krylov-Schur by shift and invert, right eigenvectors only; tuned: L D L^T and eight vectors. The direct solvers are those that are
    taken here."""
    from slepc4py import SLEPc

    from jordan_dist.backends.petsc import direct_solver

    eps = SLEPc.EPS().create(comm)
    eps.setOperators(A, B)
    eps.setProblemType(SLEPc.EPS.ProblemType.NHEP if B is None else SLEPc.EPS.ProblemType.GNHEP)
    eps.setWhichEigenpairs(SLEPc.EPS.Which.TARGET_MAGNITUDE)
    eps.setTarget(problem.target)
    eps.setTolerances(TOLERANCE)
    eps.setDimensions(problem.size, 8 if tuned else None)
    transformation = eps.getST()
    transformation.setType(SLEPc.ST.Type.SINVERT)
    ksp = transformation.getKSP()
    ksp.setType("preonly")
    pc = ksp.getPC()
    pc.setType("cholesky" if tuned else "lu")
    pc.setFactorSolverType(direct_solver(problem.n, comm))
    begun = time.perf_counter()
    eps.setUp()
    factor = time.perf_counter() - begun
    eps.solve()
    values = np.array([eps.getEigenvalue(i) for i in range(min(problem.size, eps.getConverged()))])
    for part in (pc, ksp, transformation, eps):  # each holds the factors
        part.destroy()
    return {"seconds": {"factor": factor}, "eigenvalues": values}
