"""The figures of a run, a scan or a measurement of errors, each with its numbers, from what is in its folder: drawn on the page, and as
files for papers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jordan_dist import io
from jordan_dist.backends import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

FOLDER = "figures"
# All figures of this distribution have one look. The file belongs to dynamo-dist, which is installed beside this package and not imported.
STYLE = Path(__file__).parents[1] / "dynamo_dist" / "report" / "figures.mplstyle"
# Places in the cycle of colours, Okabe and Ito's in either look: told apart by most people who see colours differently.
BLUE, ORANGE, GREEN, PURPLE, GREY = "C0", "C1", "C2", "C3", "#8c959f"
NEAREST_GAP = 5.0  # spreads: a next eigenvalue farther away than this would leave the others a dot in its picture
METHODS = {
    "naive": ("naive eigenpair: slope 1/{k}", ORANGE),
    "first": ("first-order chain: slope 1", BLUE),
    "second": ("second-order chain: slope 2", GREEN),
}


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One set of axes with its caption, and the numbers behind it by column."""

    name: str
    caption: str
    draw: Callable[[Axes], None]
    table: Mapping[str, Sequence[Any]]
    # Inches, on the page.
    size: tuple[float, float] = (4.8, 3.6)


def read(folder: str | Path) -> dict[str, Any]:
    """What the folder holds: result.json of a run, scan.json or verify.json. ValueError if there is none of them."""
    names = (io.RESULT, io.SCAN_FILES[0], io.VERIFY_FILES[0])
    for name in names:
        try:
            found = json.loads((Path(folder) / name).read_text())
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and found.get("program") == io.PROGRAM:
            return found
    raise ValueError(f"{folder} holds no {io.PROGRAM} run (no {', '.join(names[:-1])} or {names[-1]} of this program)")


def drawings(folder: str | Path) -> list[Drawing]:
    """What there is to draw of a run, a scan or a measurement of errors, in the order of the page. ValueError if the folder holds none."""
    result = read(folder)
    if result["mode"] == "scan":
        return _of_scan(result)
    if result["mode"] == "verify":
        sizes = sorted({case["size"] for case in result["cases"]})
        return [_slopes([case for case in result["cases"] if case["size"] == size], size) for size in sizes]
    found = [*_modes(Path(folder), result), _spectrum(result), _splitting(result), _convergence(result)]
    return [drawing for drawing in found if drawing is not None]


def write_figures(folder: str | Path) -> list[Path]:
    """Write the drawings of a folder as PNG, SVG and PDF into its figures/, the same bytes every time; returns the files.

    Figures of an older run in the folder go. ValueError if it holds none; MissingExtraError without matplotlib.
    """
    found, Figure = drawings(folder), figure_class()
    import matplotlib as mpl

    where = Path(folder) / FOLDER
    where.mkdir(exist_ok=True)
    dates: dict[str, dict[str, None] | None] = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    files = []
    for drawing in found:
        with mpl.rc_context(fname=STYLE), mpl.rc_context({"svg.hashsalt": drawing.name}):
            figure = Figure(layout="constrained")
            drawing.draw(figure.add_subplot())
            for kind, metadata in dates.items():
                files.append(where / f"{drawing.name}.{kind}")
                figure.savefig(files[-1], metadata=metadata)
    for pattern in ("mode-*", "spectrum", "splitting", "search", "window", "eigenvalues", "errors-*"):
        for old in (file for kind in dates for file in where.glob(f"{pattern}.{kind}")):
            if old not in files:
                old.unlink()
    return files


def figure_class() -> type[Figure]:
    try:
        from matplotlib.figure import Figure  # no pyplot: no display, and no state shared with the caller's figures
    except ImportError as error:
        raise MissingExtraError(f'the report needs matplotlib ({error}): pip install "dynamo-jordan[report]"') from error
    return Figure


# ---- a run ------------------------------------------------------------------------------------------------------------------


def _modes(folder: Path, result: dict[str, Any]) -> list[Drawing]:
    if not (folder / io.MODES).exists():
        return []
    with np.load(folder / io.MODES, allow_pickle=False) as file:
        return [_mode(mode, i, _mode_caption(result, i)) for i, mode in enumerate(file["modes"])]


def _mode_caption(result: dict[str, Any], i: int) -> str:
    if result["verdict"] != "block":
        return f"|x| of basis vector {i + 1} of the subspace"
    return "|x0|, the eigenvector" if i == 0 else f"|j{i}|, Jordan vector"


def _mode(mode: NDArray[np.float32], i: int, caption: str) -> Drawing:
    """Root mean square over squares of cells, (side, side), or (side, 1) where there is no grid."""
    side, width = mode.shape

    def draw(axes: Axes) -> None:
        if width == 1:
            axes.plot(mode[:, 0], color=BLUE)
            axes.set(xlabel="unknowns, averaged", ylim=(0, None))
            return
        image = axes.imshow(mode.T, origin="lower", cmap="magma", interpolation="none")
        axes.figure.colorbar(image, ax=axes, shrink=0.85)
        axes.set(xlabel="cell i", ylabel="cell j")
        axes.grid(False)

    table: dict[str, Sequence[Any]] = {"i": range(side)} | {f"j={j}": [f"{value:.3g}" for value in mode[:, j]] for j in range(width)}
    return Drawing(name=f"mode-{i}", caption=caption, draw=draw, table=table, size=(4.2, 3.8))


def _spectrum(result: dict[str, Any]) -> Drawing | None:
    """Eigenvalues on the way of the search, or of the given pencil, where they merge, and the branches of the root between."""
    k, centre = len(result["singular_values"]), complex_array([result["eigenvalue"]])[0]
    history = result.get("history", [])
    seen = [complex_array(step["eigenvalues"]) for step in history] or (
        [complex_array(result["eigenvalues"])] if result.get("eigenvalues") else []
    )
    if not seen:
        return None
    # The branches over the straight line through the first of these pencils and the point, as far on its other side.
    s, shift = np.linspace(-1, 1, 41), 0j
    if result["puiseux"] and (history or result["step"] is not None):
        away = complex_array(history[0]["parameters"]) - complex_array(result["parameters"]) if history else -complex_array(result["step"])
        shift = complex(complex_array(result["puiseux"]) @ away)
    branches = [centre + np.exp(2j * np.pi * branch / k) * (shift * s + 0j) ** (1 / k) for branch in range(k)] if shift else []
    gap, spread = result["gap"], max(np.abs(seen[0] - centre).max(), np.finfo(float).tiny)
    near = gap is not None and gap < NEAREST_GAP * spread

    def draw(axes: Axes) -> None:
        for branch in branches:
            axes.plot(branch.real, branch.imag, "-", color=GREY, linewidth=1)
        if branches:
            axes.plot([], [], "-", color=GREY, label=f"(c t)^(1/{k}), from the chain")
        for step, eigenvalues in enumerate(seen):
            label = ("eigenvalues on the way" if history else "eigenvalues of the pencil") if step == 0 else None
            axes.plot(eigenvalues.real, eigenvalues.imag, "o", color=BLUE, markersize=4, alpha=1 - 0.6 * step / len(seen), label=label)
        axes.plot(centre.real, centre.imag, "*", color=ORANGE, markersize=11, label="where they merge")
        if near:
            circle = centre + gap * np.exp(1j * np.linspace(0, 2 * np.pi, 200))
            axes.plot(circle.real, circle.imag, ":", color=PURPLE, label="distance of the next eigenvalue (estimate)")
        axes.set(xlabel="Re", ylabel="Im")
        axes.set_aspect("equal", adjustable="datalim")
        axes.figure.legend(loc="outside lower center", ncols=2)

    table: dict[str, list[Any]] = {"what": [], "number": [], "t": [], "re": [], "im": []}
    rows: list[tuple[Any, ...]] = [("eigenvalue", step, "", value) for step, eigenvalues in enumerate(seen) for value in eigenvalues]
    rows += [("merged", "", 0, centre)]
    rows += [("branch", number, t, value) for number, branch in enumerate(branches) for t, value in zip(s, branch, strict=True)]
    for what, which, t, value in rows:
        for name, entry in zip(table, (what, which, t, value.real, value.imag), strict=True):
            table[name].append(entry)
    beyond = "" if near or gap is None else f" The next eigenvalue is about {gap:.3g} away, outside."
    caption = "Eigenvalues in the complex plane." + beyond
    if branches:
        caption += " t: from the first pencil (-1 or 1) through the exceptional point (0)."
    return Drawing(name="spectrum", caption=caption, draw=draw, table=table)


def _splitting(result: dict[str, Any]) -> Drawing | None:
    """Spread of the eigenvalues at the points that the search visited, against the root that the chain predicts."""
    if not result["puiseux"] or "history" not in result:
        return None
    k = len(result["singular_values"])
    final, c = complex_array(result["parameters"]), complex_array(result["puiseux"])
    distance, spread = [], []
    for step in result["history"]:
        eigenvalues = complex_array(step["eigenvalues"])
        shift = abs(c @ (complex_array(step["parameters"]) - final))
        # nearer than this, rounding in the parameters moves the eigenvalues more than the step does
        if shift > 1e-12 * abs(eigenvalues.mean()):
            distance.append(shift)
            spread.append(np.abs(eigenvalues - eigenvalues.mean()).max())
    if not distance:
        return None

    def draw(axes: Axes) -> None:
        line = np.geomspace(min(distance) / 10, max(distance) * 10, 50)
        axes.loglog(line, line ** (1 / k), "-", color=GREY, label=f"|c t|^(1/{k}), from the chain")
        axes.loglog(distance, spread, "o", color=ORANGE, label="eigenvalues on the way")
        axes.set(xlabel="|c t|, t = parameters - exceptional point", ylabel="max |eigenvalue - mean|")
        axes.legend()

    table = {"c_t": distance, "spread": spread, "predicted": [d ** (1 / k) for d in distance]}
    return Drawing(
        name="splitting",
        caption=f"The {'square' if k == 2 else f'{k}-th'} root splitting around the exceptional point",
        draw=draw,
        table=table,
    )


def _convergence(result: dict[str, Any]) -> Drawing | None:
    if "history" not in result:
        return None
    history = result["history"]
    moved, residuals = ([max(step[name], 1e-17) for step in history] for name in ("step", "residual"))

    def draw(axes: Axes) -> None:
        axes.semilogy(moved, "o-", color=BLUE, label="|delta| of the parameters")
        axes.semilogy(residuals, "s--", color=GREEN, label="residual of the subspace")
        axes.set(xlabel="step", xticks=range(0, len(history), -(-len(history) // 10)))
        axes.legend()

    caption = "How far each step of the search moved the parameters, and how well the subspace followed"
    return Drawing(name="search", caption=caption, draw=draw, table=_history(result))


def _history(result: dict[str, Any]) -> dict[str, list[Any]]:
    """The steps of a search by column; of complex numbers real and imaginary part."""
    table: dict[str, list[Any]] = {"number": list(range(len(result["history"])))}
    for step in result["history"]:
        values = zip([*result["parameter_names"]], step["parameters"], strict=True)
        named = [*values, *((f"eigenvalue_{i + 1}", value) for i, value in enumerate(step["eigenvalues"]))]
        for name, value in named:
            re, im = value if isinstance(value, list) else (value, 0.0)
            table.setdefault(f"{name}_re", []).append(re)
            table.setdefault(f"{name}_im", []).append(im)
        for name in ("step", "residual", "sweeps"):
            table.setdefault(name, []).append(step[name])
    return table


# ---- a scan -----------------------------------------------------------------------------------------------------------------


def _of_scan(result: dict[str, Any]) -> list[Drawing]:
    points, names = result["points"], [f"p{i + 1}" for i in range(len(result["window"][0]))]
    where = [_plane(point["parameters"]) for point in points]
    lost = [_plane(place) for place in result["unresolved"]]
    (left, bottom), (right, top) = (_plane(corner) for corner in result["window"])
    eigenvalues = complex_array([point["eigenvalue"] for point in points])

    def window(axes: Axes) -> None:
        axes.plot([left, right, right, left, left], [bottom, bottom, top, top, bottom], "-", color=GREY, label="window")
        axes.plot([x for x, _ in where], [y for _, y in where], "o", color=BLUE, label="exceptional points")
        if lost:
            axes.plot([x for x, _ in lost], [y for _, y in lost], "x", color=ORANGE, label="zeros that are no point found")
        axes.set(xlabel="Re p" if len(names) == 1 else names[0], ylabel="Im p" if len(names) == 1 else names[1])
        axes.legend()

    def spectrum(axes: Axes) -> None:
        axes.plot(eigenvalues.real, eigenvalues.imag, "*", color=ORANGE, markersize=9)
        axes.set(xlabel="Re", ylabel="Im")

    table = {
        "x": [x for x, _ in where],
        "y": [y for _, y in where],
        "eigenvalue_re": eigenvalues.real.tolist(),
        "eigenvalue_im": eigenvalues.imag.tolist(),
    }
    found = [Drawing(name="window", caption="Exceptional points in the plane of the parameters", draw=window, table=table)]
    if points:
        caption = "Where pairs of eigenvalues merge, in the complex plane"
        found.append(Drawing(name="eigenvalues", caption=caption, draw=spectrum, table=table))
    return found


def _plane(parameters: list[Any]) -> tuple[float, float]:
    """One complex parameter, or two real ones, as a point."""
    values = complex_array(parameters)
    return (values[0].real, values[0].imag) if len(values) == 1 else (values[0].real, values[1].real)


# ---- a measurement of errors ------------------------------------------------------------------------------------------------


def _slopes(cases: list[dict[str, Any]], size: int) -> Drawing:
    table: dict[str, list[Any]] = {"pencil": [], "method": [], "quantity": [], "distance": [], "error": []}
    for case in cases:
        for method, found in case["errors"].items():
            for quantity, errors in found.items():
                for distance, error in zip(case["distances"][method], errors, strict=True):
                    for name, entry in zip(table, (case["name"], method, quantity, distance, error), strict=True):
                        table[name].append(entry)

    def draw(axes: Axes) -> None:
        for method, (label, colour) in METHODS.items():
            for case in cases:
                for errors in case["errors"][method].values():
                    axes.loglog(case["distances"][method], np.maximum(errors, 1e-17), ".-", color=colour, lw=0.6, ms=4, alpha=0.5)
            axes.plot([], [], ".-", color=colour, label=label.format(k=size))
        axes.set(xlabel="distance from the defective pencil", ylabel="relative error of eigenvalue and vectors")
        axes.legend(loc="lower right")

    caption = f"Jordan blocks of size {size}: errors over the distance"
    return Drawing(name=f"errors-{size}", caption=caption, draw=draw, table=table, size=(5.2, 4.2))


def complex_array(values: Sequence[Any]) -> NDArray[np.complex128]:
    """Numbers of a result: there a complex one is [re, im]."""
    return np.array([complex(*v) if isinstance(v, list) else v for v in values], dtype=complex)
