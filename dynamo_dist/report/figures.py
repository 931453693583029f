"""Figures as inline SVG. Text stays text, so that pages are small and can be searched."""

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from dynamo_dist.errors import InputError

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure  # no pyplot: no display, and no state shared with the caller's figures
except ImportError as error:
    raise InputError(f"the report needs matplotlib ({error}): pip install 'dynamo-jordan[report]'") from None

COLOURS = ("#0969da", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#bf3989")
MARKERS = ("o", "s", "^", "D", "v", "P")
_numbers = itertools.count()


def _html(figure: Figure, caption: str) -> str:
    out = io.StringIO()
    # The salt keeps the ids of several figures on one page apart.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"figure-{next(_numbers)}"}):
        figure.savefig(out, format="svg", bbox_inches="tight", metadata={"Date": None})
    svg = out.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{caption}</figcaption></figure>"


def blank_axes(**labels: str) -> tuple[Figure, Axes]:
    """One figure with one set of axes, as all are drawn here."""
    figure = Figure(figsize=(4.6, 3.7))
    axes = figure.add_subplot()
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def plane(theta_MD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in the plane of the two largest principal components, (M, 2), and their shares of the variance, (2,)."""
    centred = theta_MD - theta_MD.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    shares = s**2 / max((s**2).sum(), np.finfo(float).tiny)
    points = np.zeros((len(theta_MD), 2))
    used = min(2, len(s))
    points[:, :used] = u[:, :used] * s[:used]
    return points, np.concatenate([shares, [0.0, 0.0]])[:2]


def embedding(networks: dict[str, list[Any]]) -> str:
    """The map of embedding vectors: colour is the computation, shape the architecture."""
    points, shares = plane(np.array(networks["theta"]))
    figure, axes = blank_axes(xlabel=f"component 1 ({100 * shares[0]:.0f} % of variance)", ylabel=f"component 2 ({100 * shares[1]:.0f} %)")
    colour = dict(zip(dict.fromkeys(networks["computation"]), itertools.cycle(COLOURS), strict=False))
    marker = dict(zip(dict.fromkeys(networks["architecture"]), itertools.cycle(MARKERS), strict=False))
    for group in dict.fromkeys(networks["group"]):
        rows = [index for index, name in enumerate(networks["group"]) if name == group]
        first = rows[0]
        axes.scatter(
            *points[rows].T,
            label=group,
            color=colour[networks["computation"][first]],
            marker=marker[networks["architecture"][first]],
            alpha=0.75,
            s=38,
            linewidths=0,
        )
    axes.legend(frameon=False, fontsize=8)
    return _html(figure, "Embedding vectors of all networks: colour is what they compute, shape their architecture.")


def disputed(networks: dict[str, list[Any]]) -> str:
    """Agreement on disputed inputs, with and without theta."""
    figure, axes = blank_axes(xlabel="control without theta", ylabel="meta-model at theta")
    colour = dict(zip(dict.fromkeys(networks["computation"]), itertools.cycle(COLOURS), strict=False))
    x, y = np.array(networks["control_disputed_agreement"], dtype=float), np.array(networks["disputed_agreement"], dtype=float)
    axes.plot([0, 1], [0, 1], color="#8c959f", linewidth=1)
    axes.scatter(x, y, color=[colour[name] for name in networks["computation"]], alpha=0.75, s=30, linewidths=0)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    return _html(figure, "Agreement with the base network on inputs that divide the population, a point per network.")


def training(folder: Path, result: dict[str, Any]) -> str:
    """Losses along training."""
    figure, axes = blank_axes(xlabel="step", ylabel="loss", yscale="log")
    names = [*(f"meta-{seed}" for seed in range(len(result["seeds"]))), "control"]
    for name, colour in zip(names, itertools.cycle(COLOURS), strict=False):
        lines = [json.loads(line) for line in (folder / name / "progress.jsonl").read_text().splitlines()]
        axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], label=name, color=colour, linewidth=1.2)
    axes.legend(frameon=False, fontsize=8)
    return _html(figure, "Loss of the meta-model and of the control along training.")
