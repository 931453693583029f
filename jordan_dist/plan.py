"""What a chain of n unknowns will need, extrapolated from chains on small grids of this machine.

With nested dissection the factors of a matrix on a grid have c n log2 n entries in two dimensions and c n^(4/3) in three, and cost
a n^(3/2) and a n^2 operations (George, SIAM J. Numer. Anal. 10, 1973). What else a chain does is in proportion to n. The constants are
measured: a chain each on three grids, in two and three dimensions, with L D L^T and with LU, on as many ranks as run this.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.optimize

from jordan_dist import memory, problems
from jordan_dist.backends import backend_for
from jordan_dist.io import PROGRAM, write_json
from jordan_dist.pencil import pencil, settle_symmetry
from jordan_dist.subspace import factored_pair

FORMAT = 1
GRIDS = {2: ("lined-duct", (200, 290, 420)), 3: ("cubes", (16, 21, 28))}  # about a minute on one core
KINDS = {"symmetric": "L D L^T", "general": "LU"}
LARGEST = 10**9
FILL: dict[int, Callable[[Any], Any]] = {2: lambda n: n * np.log2(n), 3: lambda n: n ** (4 / 3)}
OPERATIONS: dict[int, Callable[[Any], Any]] = {2: lambda n: n**1.5, 3: lambda n: n**2.0}
PHASES = ("analysis", "factorization", "solves", "rest")
PERFECT = ("factorization", "solves", "rest")  # what more ranks are taken to share; the analysis of the matrix is sequential


@dataclass(frozen=True, kw_only=True)
class Run:
    """A chain of first order on one grid."""

    n: int
    entries: float
    """Of the factors, over all ranks; L D L^T counts those of L."""
    memory_bytes: float
    """The largest resident size less that before the matrices were made, summed over the ranks."""
    columns: int
    """That were solved for."""
    analysis: float
    """Seconds, as the others. 0 where the library does not tell it from the factorization (scipy)."""
    factorization: float
    solves: float
    rest: float
    """Assembly, products, orthogonalization."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The runs on so many ranks of one machine."""

    host: str
    cores: int
    ranks: int
    backend: str
    date: str
    versions: dict[str, str]
    base_bytes: float
    """Resident size of a rank before there are any matrices."""
    runs: dict[str, list[Run]]
    """By dimensions and kind, such as `2 symmetric`, in the order of n."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Of one chain; memory over all ranks and of each."""

    entries: float
    memory_bytes: float
    memory_per_rank_bytes: float
    columns: int
    seconds: dict[str, float]
    errors: dict[str, float]
    """Relative, of `entries`, `memory_bytes` and `seconds`: what the two smaller grids say about the largest."""


def calibrate(versions: dict[str, str], comm: Any = None) -> Calibration:
    """Runs the small chains (collective)."""
    memory.forget_peak()
    base = memory.peak()
    runs: dict[str, list[Run]] = {}
    for dim, (name, sizes) in GRIDS.items():
        for kind in KINDS:
            runs[f"{dim} {kind}"] = [_run(name, cells, kind == "symmetric", comm) for cells in sizes]
    return Calibration(
        host=platform.node(),
        cores=os.cpu_count() or 1,
        ranks=1 if comm is None else comm.size,
        backend="scipy" if comm is None else "petsc",
        date=time.strftime("%Y-%m-%d"),
        versions=versions,
        base_bytes=base if comm is None else comm.allreduce(base) / comm.size,
        runs=runs,
    )


def _run(name: str, cells: int, symmetric: bool, comm: Any) -> Run:
    memory.forget_peak()
    before, begun = memory.peak(), time.perf_counter()
    problem = problems.problem(name, cells)
    A, B, dA, dB = problem.pencil(problem.nearby, comm)
    backend = backend_for(A)
    measured = pencil(backend, A, B)
    settle_symmetry(measured, None if symmetric else False)
    with _direct_solver(comm, symmetric) as analysis_seconds:
        factor, _ = factored_pair(measured, problem.target, problem.size)
        analysis = analysis_seconds()
    total, cost, entries = time.perf_counter() - begun, backend.cost, factor.entries()
    grown = memory.peak() - before
    factor.destroy()
    backend.destroy()
    problems.destroy(A, B, *dA, *dB)
    if comm is not None:
        grown = comm.allreduce(grown)
        total, analysis = comm.bcast((total, analysis))
    return Run(
        n=problem.n,
        entries=entries,
        memory_bytes=grown,
        columns=cost.solves,
        analysis=analysis,
        factorization=cost.factor_seconds - analysis,
        solves=cost.solve_seconds,
        rest=total - cost.factor_seconds - cost.solve_seconds,
    )


def _direct_solver(comm: Any, symmetric: bool) -> Any:
    """The solver of large problems, on small ones too, and how long its analysis took."""
    if comm is None:
        return nullcontext(lambda: 0.0)
    from jordan_dist.backends.petsc import mumps_measured

    return mumps_measured(symmetric)


class _Model:
    """The laws with the constants that fit runs of one kind best, relative to what was measured."""

    def __init__(self, dim: int, runs: list[Run]):
        self.dim = dim
        self.columns = runs[-1].columns
        n = np.array([run.n for run in runs], dtype=float)
        fill, linear = FILL[dim](n), n

        def fitted(values: list[float], *laws: np.ndarray) -> np.ndarray:
            y = np.array(values)
            scale = np.where(y > 0, y, 1.0)
            return np.asarray(scipy.optimize.nnls(np.column_stack(laws) / scale[:, None], y / scale)[0])

        self.entries = fitted([run.entries for run in runs], fill)
        self.memory = fitted([run.memory_bytes for run in runs], fill, linear)
        self.constants = {
            "analysis": fitted([run.analysis for run in runs], n * np.log2(n)),
            "factorization": fitted([run.factorization for run in runs], OPERATIONS[dim](n), fill),
            "solves": fitted([run.solves / run.columns for run in runs], fill, linear),
            "rest": fitted([run.rest for run in runs], linear),
        }

    def at(self, n: float) -> tuple[float, float, dict[str, float]]:
        """Entries, bytes beside the base, and seconds by phase."""
        fill = FILL[self.dim](n)
        laws = {"analysis": [n * np.log2(n)], "factorization": [OPERATIONS[self.dim](n), fill], "solves": [fill, n], "rest": [n]}
        seconds = {phase: float(self.constants[phase] @ laws[phase]) for phase in PHASES}
        seconds["solves"] *= self.columns
        return float(self.entries @ [fill]), float(self.memory @ [fill, n]), seconds


def predict(calibration: Calibration, n: int, dim: int, kind: str, ranks: int) -> Prediction:
    """From the laws, and for more ranks than were measured as if they shared all but the analysis evenly: a bound from below."""
    runs = calibration.runs[f"{dim} {kind}"]
    model, rough = _Model(dim, runs), _Model(dim, runs[:-1])
    entries, grown, seconds = model.at(n)
    share = calibration.ranks / ranks
    seconds = {phase: value * (share if phase in PERFECT else 1) for phase, value in seconds.items()}
    last = runs[-1]
    rough_entries, rough_grown, rough_seconds = rough.at(last.n)
    took = sum(getattr(last, phase) for phase in PHASES)
    return Prediction(
        entries=entries,
        memory_bytes=grown + ranks * calibration.base_bytes,
        memory_per_rank_bytes=grown / ranks + calibration.base_bytes,
        columns=model.columns,
        seconds=seconds | {"total": sum(seconds.values())},
        errors={
            "entries": rough_entries / last.entries - 1,
            "memory_bytes": rough_grown / last.memory_bytes - 1,
            "seconds": sum(rough_seconds.values()) / took - 1,
        },
    )


def largest_that_fits(calibration: Calibration, dim: int, kind: str, ranks: int, at_hand: float) -> int:
    """The largest n whose chain needs no more memory than `at_hand`; 0 if the ranks alone need it."""
    low, high = 0, LARGEST
    while high - low > max(1, low // 1000):
        middle = (low + high) // 2
        fits = middle >= 2 and predict(calibration, middle, dim, kind, ranks).memory_bytes <= at_hand
        low, high = (middle, high) if fits or middle < 2 else (low, middle)
    return low if low >= 2 else 0


def advice(calibration: Calibration, prediction: Prediction, dim: int, kind: str, ranks: int, at_hand: float) -> list[str]:
    """What to do where a chain does not fit in the memory at hand; empty where it does."""
    if prediction.memory_bytes <= at_hand:
        return []
    machines = math.ceil(prediction.memory_bytes / at_hand)
    largest = largest_that_fits(calibration, dim, kind, ranks, at_hand)
    words = [
        f"it needs {machines} machines like this one, or one with {_bytes(prediction.memory_bytes)}",
        f"the largest n that fits here is about {float(f'{largest:.2g}'):,.0f}",
    ]
    if kind == "general":
        words.append("matrices that equal their transposes need about half: see the other column")
    if calibration.backend == "petsc":
        words.append('factors on the disk: PETSC_OPTIONS="-jordan_mat_mumps_icntl_22 1"')
        if dim == 3:
            words.append('factors compressed by low rank: PETSC_OPTIONS="-jordan_mat_mumps_icntl_35 2 -jordan_mat_mumps_cntl_7 1e-4"')
    return words


def default_path() -> Path:
    """`$XDG_CACHE_HOME/jordan-dist/calibration-HOST.json`, with `~/.cache` where that variable is not set."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / PROGRAM / f"calibration-{platform.node()}.json"


def stored(path: Path) -> dict[int, Calibration]:
    """The calibrations of a file by their number of ranks; none where there is no file. ValueError if it is something else."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
        if (content["program"], content["format"]) != (PROGRAM, FORMAT):
            raise ValueError
        found = [
            Calibration(**(one | {"runs": {case: [Run(**run) for run in runs] for case, runs in one["runs"].items()}}))
            for one in content["calibrations"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no calibration of {PROGRAM}, format {FORMAT}: remove it, or name another file") from error
    return {one.ranks: one for one in found}


def store(path: Path, calibrations: dict[int, Calibration]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"program": PROGRAM, "format": FORMAT, "calibrations": [asdict(one) for one in calibrations.values()]})


def is_of_here(calibration: Calibration, versions: dict[str, str]) -> bool:
    """Whether it was measured on this machine with these versions."""
    return (calibration.host, calibration.cores, calibration.versions) == (platform.node(), os.cpu_count() or 1, versions)


def nearest(calibrations: dict[int, Calibration], ranks: int) -> Calibration:
    """The one on the most ranks up to `ranks`, else that on the fewest."""
    below = [r for r in calibrations if r <= ranks]
    return calibrations[max(below) if below else min(calibrations)]


def table(n: int, dim: int, ranks: int, calibration: Calibration, found: dict[str, Prediction], at_hand: float) -> str:
    """For people."""
    measured = f"measured on {calibration.ranks} rank(s) of {calibration.host}, {calibration.date}"
    rows = [
        (f"n = {n:,}, {dim}-D, {ranks} rank(s)", [KINDS[kind] for kind in found]),
        ("entries of the factors", [f"{p.entries:.2e}" for p in found.values()]),
        ("memory, all ranks", [_bytes(p.memory_bytes) for p in found.values()]),
        ("memory per rank", [_bytes(p.memory_per_rank_bytes) for p in found.values()]),
        *((f"{phase}, s", [f"{p.seconds[phase]:.3g}" for p in found.values()]) for phase in (*PHASES, "total")),
        ("columns solved for", [str(p.columns) for p in found.values()]),
        (f"fits in {_bytes(at_hand)} at hand", ["yes" if p.memory_bytes <= at_hand else "no" for p in found.values()]),
    ]
    largest = calibration.runs[f"{dim} general"][-1].n
    for name, label in (("entries", "entries"), ("memory_bytes", "memory"), ("seconds", "time")):
        rows.append((f"error of {label} at n = {largest:,}", [f"{100 * p.errors[name]:+.0f} %" for p in found.values()]))
    lines = [f"{label:32}" + "".join(f"{value:>14}" for value in values) for label, values in rows]
    lines.append(f"({measured}; the errors are those of the two smaller grids about the largest)")
    if ranks != calibration.ranks:
        lines.append(
            f"(all but the analysis divided by {ranks / calibration.ranks:.3g}: mpirun -n {ranks} jordan-dist plan .. measures it)"
        )
    for kind, prediction in found.items():
        for words in advice(calibration, prediction, dim, kind, ranks, at_hand):
            lines.append(f"{KINDS[kind]} does not fit: {words}")
    return "\n".join(lines)


def _bytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
