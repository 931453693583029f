"""How the errors fall with the distance from a defective pencil: slopes against planted chains.

The naive eigenpair of a k x k block is wrong by eps^(1/k), the first-order chain by eps, the second-order chain by eps^2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg

from jordan_dist.chain import jordan_chain
from jordan_dist.planted import Planted, planted_pencil

DISTANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
SMALLEST = 1e-10  # not for the second order, which is down to rounding long before
TOLERANCE = 0.05  # of a slope
FLOOR = 1e-12  # bound of the errors of the exactly defective pencil; smaller ones are rounding and say nothing about a slope
METHODS = ("naive", "first", "second")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A kind of pencil, and what was measured on it. Errors are relative, by quantity: `eigenvalue`, `x0`, `j1`, .."""

    size: int
    generalized: bool
    real: bool
    symmetric: bool
    distances: dict[str, tuple[float, ...]]
    """By method: how far the pencils are from the defective one, in the parameters."""
    errors: dict[str, dict[str, tuple[float, ...]]]
    """By method and quantity, one per distance."""
    slopes: dict[str, dict[str, float]]
    floors: dict[str, dict[str, float]]
    """Errors at the exactly defective pencil."""

    @property
    def name(self) -> str:
        words = ("generalized" if self.generalized else "standard", "real" if self.real else "complex")
        return f"k = {self.size}, {words[0]}, {words[1]}, {'symmetric' if self.symmetric else 'non-symmetric'}"

    @property
    def passed(self) -> bool:
        expected = {"naive": 1 / self.size, "first": 1.0, "second": 2.0}
        slopes = all(abs(s - expected[method]) <= TOLERANCE for method, found in self.slopes.items() for s in found.values())
        return slopes and all(error < FLOOR for found in self.floors.values() for error in found.values())


def verify(n: int = 80, comm: Any = None) -> list[Case]:
    """Measures all kinds of pencils of order n (one process without `comm`, PETSc with it)."""
    kinds = [(k, g, r, s) for k in (2, 3) for g in (False, True) for r in (True, False) for s in (False, True)]
    return [measure(*kind, n=n, comm=comm) for kind in kinds if kind[1:] != (False, True, True)]


def measure(size: int, generalized: bool, real: bool, symmetric: bool, *, n: int = 80, seed: int = 0, comm: Any = None) -> Case:
    """One kind. (A real symmetric standard problem does not exist: it is never defective.)"""
    planted = planted_pencil(size, n=n, generalized=generalized, real=real, symmetric=symmetric, parameters=size - 1, seed=seed)
    direction = np.array([1.0, -0.5] if real else [1.0, 0.5j])[: size - 1]
    direction = direction / np.linalg.norm(direction)

    def solved(method: str, eps: float) -> dict[str, float]:
        A, B = planted.at(eps * direction)
        if method == "naive":
            return _naive(planted, A, B)
        derivatives: dict[str, Any] = {"dA": list(planted.dA), "dB": list(planted.dB) or None} if method == "second" else {}
        target = planted.eigenvalue + (0.1 if real else 0.1 - 0.1j)
        return _errors(planted, jordan_chain(A, B, target=target, size=size, **derivatives, comm=comm))

    distances = {"naive": (*DISTANCES, SMALLEST), "first": (*DISTANCES, SMALLEST), "second": DISTANCES}
    errors = {method: _by_quantity([solved(method, eps) for eps in distances[method]]) for method in METHODS}
    return Case(
        size=size,
        generalized=generalized,
        real=real,
        symmetric=symmetric,
        distances=distances,
        errors=errors,
        slopes={m: {q: _slope(distances[m], e) for q, e in found.items()} for m, found in errors.items()},
        floors={method: solved(method, 0.0) for method in ("first", "second")},
    )


def _naive(planted: Planted, A: np.ndarray, B: np.ndarray | None) -> dict[str, float]:
    """The eigenpair nearest the truth, of all that LAPACK finds."""
    values, vectors = scipy.linalg.eig(A, B)
    i = np.argmin(np.abs(values - planted.eigenvalue))
    x, truth = vectors[:, i] / np.linalg.norm(vectors[:, i]), planted.vectors[:, 0]
    phase = np.vdot(truth, x)
    return {
        "eigenvalue": float(abs(values[i] - planted.eigenvalue) / abs(planted.eigenvalue)),
        "x0": float(np.linalg.norm(x * (abs(phase) / phase) - truth)),
    }


def _errors(planted: Planted, chain: Any) -> dict[str, float]:
    names = ["x0", *(f"j{i}" for i in range(1, sum(planted.blocks)))]
    eigenvalue = float(abs(chain.eigenvalue - planted.eigenvalue) / abs(planted.eigenvalue))
    return {"eigenvalue": eigenvalue} | dict(zip(names, planted.errors(chain.vectors).tolist(), strict=True))


def _by_quantity(rows: list[dict[str, float]]) -> dict[str, tuple[float, ...]]:
    return {quantity: tuple(row[quantity] for row in rows) for quantity in rows[0]}


def _slope(distances: tuple[float, ...], errors: tuple[float, ...]) -> float:
    """Of log(error) over log(distance), by least squares."""
    x, y = np.log(distances), np.array(errors)
    above = y > FLOOR
    return float(np.polyfit(x[above], np.log(y[above]), 1)[0]) if above.sum() > 1 else float("nan")


def table(cases: list[Case]) -> str:
    """The slopes, a line per case; the largest error at the defective pencil in the last column."""
    lines = [f"{'slopes of the errors of lambda, x0, j1, ..':<44} {'naive':<11} {'1st order':<23} {'2nd order':<23} floor"]
    for case in cases:
        slopes = [" ".join(f"{s:5.2f}" for s in case.slopes[method].values()) for method in METHODS]
        floor = max(max(found.values()) for found in case.floors.values())
        mark = "" if case.passed else "  FAILED"
        lines.append(f"{case.name:<44} {slopes[0]:<11} {slopes[1]:<23} {slopes[2]:<23} {floor:.0e}{mark}")
    return "\n".join(lines)


def draw(cases: list[Case], *paths: Path) -> None:
    """The errors over the distance, log-log, a panel per block size. MissingExtraError without matplotlib."""
    from jordan_dist.figures import figure_class

    colours = {"naive": "#cf222e", "first": "#0969da", "second": "#1a7f37"}
    sizes = sorted({case.size for case in cases})
    figure = figure_class()(figsize=(5.2 * len(sizes), 4.2), layout="constrained")
    panels = figure.subplots(1, len(sizes), squeeze=False, sharey=True)[0]
    for axes, size in zip(panels, sizes, strict=True):
        for case in (case for case in cases if case.size == size):
            for method, found in case.errors.items():
                for errors in found.values():
                    axes.loglog(case.distances[method], np.maximum(errors, 1e-17), ".-", color=colours[method], lw=0.6, ms=4, alpha=0.5)
        labels = {
            "naive": f"naive eigenpair: slope 1/{size}",
            "first": "first-order chain: slope 1",
            "second": "second-order chain: slope 2",
        }
        for method, label in labels.items():
            axes.plot([], [], ".-", color=colours[method], label=label)
        axes.set(xlabel="distance from the defective pencil", title=f"Jordan block of size {size}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="lower right")
    panels[0].set(ylabel="relative error of eigenvalue and vectors")
    for path in paths:
        figure.savefig(path, dpi=150)
