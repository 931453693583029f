"""What all figures for papers share: one style, and files as PNG, SVG and PDF that come out the same every time. And those of a run itself."""

import itertools
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dynamo_dist.commit import read_lines
from dynamo_dist.errors import InputError
from dynamo_dist.report.contents import principal

try:
    import matplotlib as mpl
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure  # no pyplot: no display, and no state shared with the caller's figures
except ImportError as error:
    raise InputError(f"figures need matplotlib ({error}): pip install 'dynamo-jordan[report]'") from None

STYLE = Path(__file__).with_name("figures.mplstyle")
COLOURS = mpl.rc_params_from_file(STYLE, use_default_template=False)["axes.prop_cycle"].by_key()["color"]
MARKERS = ("o", "s", "^", "D", "v", "P")


def style() -> AbstractContextManager[None]:
    """The context in which figures are made and saved."""
    return mpl.rc_context(fname=STYLE)


def save(figure: Figure, path: Path) -> list[Path]:
    """Write `path` with the endings png, svg and pdf; returns the files."""
    dates = {"png": None, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    files = []
    for kind, metadata in dates.items():
        files.append(path.with_name(f"{path.name}.{kind}"))
        with mpl.rc_context({"svg.hashsalt": path.name}):
            figure.savefig(files[-1], metadata=metadata)
    return files


def blank_axes(**labels: Any) -> tuple[Figure, Axes]:
    """One figure with one set of axes."""
    figure = Figure()
    axes = figure.add_subplot()
    axes.set(**labels)
    return figure, axes


def of_run(folder: Path) -> Iterator[tuple[str, Figure]]:
    """The figures of a finished run by name: its map, what theta does on disputed inputs, and the losses of its meta-models."""
    networks = pq.read_table(folder / "networks.parquet").to_pydict()
    yield "embedding", _embedding(networks)
    yield "disputed", _disputed(networks)
    yield "training", _training(folder, json.loads((folder / "result.json").read_text()))


def _embedding(networks: dict[str, list[Any]]) -> Figure:
    """The map of embedding vectors: colour is the computation, shape the architecture."""
    points, shares = principal(np.array(networks["theta"]), 2)
    figure, axes = blank_axes(xlabel=f"component 1 ({100 * shares[0]:.0f} % of variance)", ylabel=f"component 2 ({100 * shares[1]:.0f} %)")
    colour = dict(zip(dict.fromkeys(networks["computation"]), itertools.cycle(COLOURS), strict=False))
    marker = dict(zip(dict.fromkeys(networks["architecture"]), itertools.cycle(MARKERS), strict=False))
    for group in dict.fromkeys(networks["group"]):
        rows = [index for index, name in enumerate(networks["group"]) if name == group]
        first = rows[0]
        axes.scatter(
            points[rows, 0],
            points[rows, 1],
            label=group,
            color=colour[networks["computation"][first]],
            marker=marker[networks["architecture"][first]],
            alpha=0.75,
            s=38,
        )
    axes.legend()
    return figure


def _disputed(networks: dict[str, list[Any]]) -> Figure:
    """Agreement with the base network on inputs that divide the population, with and without theta, a point per network."""
    figure, axes = blank_axes(xlabel="control without theta", ylabel="meta-model at theta")
    colour = dict(zip(dict.fromkeys(networks["computation"]), itertools.cycle(COLOURS), strict=False))
    x, y = np.array(networks["control_disputed_agreement"], dtype=float), np.array(networks["disputed_agreement"], dtype=float)
    axes.plot([0, 1], [0, 1], color="#8c959f")
    axes.scatter(x, y, color=[colour[name] for name in networks["computation"]], alpha=0.75, s=30)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
    return figure


def _training(folder: Path, result: dict[str, Any]) -> Figure:
    """Losses of the meta-models and of the control along training."""
    figure, axes = blank_axes(xlabel="step", ylabel="loss", yscale="log")
    for name in (*(f"meta-{seed}" for seed in range(len(result["seeds"]))), "control"):
        lines = read_lines(folder / name / "progress.jsonl")
        axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], label=name)
    axes.legend()
    return figure
