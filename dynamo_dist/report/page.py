"""The page of a folder: one self-contained HTML file. Tables are written here; `report.js` draws the figures from the numbers beside it."""

import html
import json
from importlib.resources import files
from pathlib import Path
from statistics import median
from typing import Any

from dynamo_dist.errors import InputError
from dynamo_dist.report.contents import contents

# Nothing is loaded from anywhere: what the page needs is inside, and the browser is told so. Plotly compiles its WebGL programs.
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"


def write_report(folder: Path) -> Path:
    """Write `report.html` of a finished run, meta-model or population and return its path. Raises `InputError` where there is none."""
    shown = contents(folder)
    path = folder / "report.html"
    path.write_text(page(shown["result"].get("title", folder.resolve().name), shown), encoding="utf-8")
    return path


def page(title: str, shown: dict[str, Any], *, before: str = "", after: str = "") -> str:
    """A complete HTML document of what `contents` returned, between two fragments of HTML."""
    numbers = json.dumps(shown, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")  # or a name could end the script
    scripts = f"""<script type="application/json" id="numbers">{numbers}</script>
<script>{_plotly()}</script>
<script>{(files("dynamo_dist.report") / "report.js").read_text()}</script>"""
    return document(title, f"{before}\n{sections(shown)}\n{after}", scripts)


def document(title: str, body: str, scripts: str = "") -> str:
    """A complete HTML document around a fragment of HTML."""
    button = '<button type="button" id="theme">Dark or light</button>' if scripts else ""  # it takes `report.js`
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}"><title>{text(title)}</title>
<link rel="icon" href="data:,"><style>{(files("dynamo_dist.report") / "report.css").read_text()}</style></head><body>
<header><h1>{text(title)}</h1>{button}</header>
<main>
{body}
</main>
{scripts}
</body></html>
"""


def _plotly() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise InputError(f"the report needs plotly ({error}): pip install 'dynamo-jordan[report]'") from None
    script: str = get_plotlyjs()
    return script


def text(value: Any) -> str:
    """Any value as text that is safe inside HTML."""
    return html.escape(str(value), quote=True)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def table(header: list[str], rows: list[list[Any]], kind: str = "numbers") -> str:
    """An HTML table; the first column names the row, the others stand to the right, or run over lines where they are `words`."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>' + "".join(f"<td>{text(value)}</td>" for value in row[1:]) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def figure(name: str, caption: str) -> str:
    """The place of a figure that `report.js` draws."""
    return f'<figure data-figure="{name}"><figcaption>{text(caption)}</figcaption></figure>'


def sections(shown: dict[str, Any]) -> str:
    """What there is to show, as one HTML fragment."""
    result, networks, analyses = shown["result"], shown["networks"], shown["analyses"]
    whole = "control" in result  # a run; else a meta-model or a population alone
    parts = [_introduction(shown)]
    if "theta" in networks:
        parts += [
            "<h2>Map of the networks</h2>",
            '<div class="beside">',
            figure("map", "Embedding vectors along their principal axes, a point per network. Networks that compute alike lie together."),
            '<aside id="network" aria-live="polite"></aside></div>',
            '<section id="compare"></section>',
        ]
    parts += ["<details><summary>Table of all networks</summary>", '<div id="all"></div></details>']
    if whole:
        parts += ["<h2>Emulation</h2>", _emulation(result)]
        if any(column in networks["columns"] for column in ("disputed_agreement", "control_disputed_agreement")):
            parts.append(
                figure(
                    "disputed",
                    "Agreement with the base network on inputs that divide the population, a point per network, with theta and without.",
                )
            )
        parts.append(_clusters(result))
    if "similarity" in analyses:
        parts += ["<h2>Similarity against other measures</h2>", _similarity(analyses["similarity"]["measures"])]
        parts.append(figure("similarity", "Networks by their distances under one measure (classical scaling)."))
    if "stability" in analyses:
        parts += ["<h3>Stability over seeds of the meta-model</h3>", _rows(analyses["stability"]["stability"])]
    if whole:
        parts += ["<h2>Accuracy, and networks averaged in the embedding space</h2>", _accuracy(result)]
    if "averaging" in analyses:
        parts.append(figure("averaging", "Scores of every way to make one network of several."))
    if "landscape" in analyses:
        parts.append("<h2>Accuracy landscape</h2>")
        parts.append(
            figure(
                "landscape",
                "Test score of the meta-model over the plane of two principal axes through the mean vector; circles are the networks.",
            )
        )
    if "semisupervised" in analyses:
        parts.append("<h2>Few labels</h2>")
        parts.append(figure("semisupervised", "Test score against the number of labels, mean and standard deviation over draws."))
    if "fixed-points" in analyses:
        parts.append("<h2>Fixed points</h2>")
        parts.append(
            figure(
                "points",
                "Fixed points of one network, in principal components of the states that it visits: filled are stable, open unstable, "
                "small grey ones slow; lines are trajectories on a few inputs. The meta-model at theta, and the network itself.",
            )
        )
    if "theta-path" in analyses:
        parts.append("<h3>Along a path in theta</h3>")
        parts.append(
            figure(
                "path",
                "Fixed points of the meta-model at zero input on the line between the mean vectors of two computations, and how many there are.",
            )
        )
    if "memory" in analyses:
        parts += ["<h2>Memory</h2>", _memory(analyses["memory"]["memory"])]
        parts.append(
            figure(
                "memory",
                "How much an input so many steps before the end counts in the answer, relative to the last one: solid the networks, "
                "dashed the meta-model at their vectors, thick the selected network.",
            )
        )
    if "trajectory" in analyses:
        parts.append("<h2>Along training</h2>")
        parts.append(
            figure(
                "trajectory",
                "Networks at several moments of their training, joined in that order on the map of the networks; large where training ended.",
            )
        )
        parts.append(_trajectory(analyses["trajectory"]["paths"]))
    if "reparameterize" in analyses:
        parts.append("<h2>Copies with other weights</h2>")
        parts.append(figure("copies", "Distance of exact copies from their originals, relative to the distance between computations."))
    parts.append("<h2>Training</h2>")
    if shown["training"]:
        parts.append(figure("losses", "Loss of the meta-models along training; dashed on held-out inputs."))
    parts.append(figure("curves", "Training loss of the base networks, mean of every group; dotted, the selected network."))
    if whole:
        parts += ["<h2>Cost</h2>", table(["stage", "seconds"], [[name, f"{value:.1f}"] for name, value in result["seconds"].items()])]
        parts.append('<p class="note">' + text(", ".join(f"{name} {value}" for name, value in result["versions"].items())) + "</p>")
    return "\n".join(parts)


def _introduction(shown: dict[str, Any]) -> str:
    result, networks = shown["result"], shown["networks"]
    words = f"{len(networks['ids']):,} networks" + (", one meta-model that emulates all of them." if "theta" in networks else ".")
    if "control" in result:
        words += (
            f" Every number was measured on {result['population']['test_inputs']:,} test inputs that trained nothing. The control is the "
            "same meta-model and training with the embedding vector fixed at zero."
        )
    return f"<p>{text(words)}</p>"


def _emulation(result: dict[str, Any]) -> str:
    meta, control = result["meta"], result["control"]
    rows = [
        ["hidden R², median", number(meta["hidden_r2_median"]), number(control["hidden_r2_median"])],
        ["hidden R², min", number(meta["hidden_r2_min"]), number(control["hidden_r2_min"])],
        ["output agreement, median", percent(meta["agreement_median"]), percent(control["agreement_median"])],
        ["output agreement, min", percent(meta["agreement_min"]), percent(control["agreement_min"])],
        [
            f"agreement on disputed inputs ({percent(meta['disputed_share'])} of all), median",
            percent(meta["disputed_agreement_median"]),
            percent(control["disputed_agreement_median"]),
        ],
    ]
    return table(["", "meta-model", "control without theta"], rows)


def _clusters(result: dict[str, Any]) -> str:
    seeds = result["seeds"]
    return "<h3>Clusters of the embedding</h3>" + table(
        ["adjusted Rand index of k-means against", *(f"seed {seed}" for seed in range(len(seeds)))],
        [
            ["the computation", *(number(seed["adjusted_rand"]) for seed in seeds)],
            ["the architecture, as information", *(number(seed["adjusted_rand_architecture"]) for seed in seeds)],
        ],
    )


def _similarity(measures: dict[str, list[Any]]) -> str:
    rows = []
    for place, name in enumerate(measures["measure"]):
        scores = []
        for score in ("silhouette", "adjusted_rand", "nearest_neighbour"):
            sd = measures[f"{score}_sd"][place]
            scores.append(number(measures[score][place]) + ("" if sd is None else f" ± {sd:.4f}"))
        rows.append([name.replace("_", " "), *scores, number(measures["p_value"][place]), measures["networks"][place]])
    return table(["measure", "silhouette", "adjusted Rand", "nearest neighbour", "p", "networks"], rows) + (
        '<p class="note">Scores against the computation; ± is the standard deviation over seeds of the meta-model.</p>'
    )


def _rows(columns: dict[str, list[Any]]) -> str:
    """A table as it is in the file."""
    shown = [[number(value) if isinstance(value, float) else value for value in row] for row in zip(*columns.values(), strict=True)]
    return table([name.replace("_", " ") for name in columns], shown)


def _memory(memory: dict[str, list[Any]]) -> str:
    rows = []
    for computation in dict.fromkeys(memory["computation"]):
        own = [place for place, name in enumerate(memory["computation"]) if name == computation]
        # A rate of 0 is an infinite time constant, which the table of the analysis leaves empty.
        rates = {which: median(memory[f"{which}_rate"][place] for place in own) for which in ("base", "meta")}
        times = [f"{1 / rate:.2f} steps" if rate > 0 else "nothing is forgotten" for rate in rates.values()]
        linear = min(memory[f"{which}_linear"][place] for which in ("base", "meta") for place in own)
        rows.append([computation, len(own), *times, number(linear)])
    return table(["computation", "networks", "time constant, median", "of the meta-model", "R² of the linear response, lowest"], rows) + (
        '<p class="note">Answers regressed on the inputs before the end; the time constant is that of an exponential fitted to the kernel.</p>'
    )


def _trajectory(paths: dict[str, list[Any]]) -> str:
    """Scores of every path; of chance those in a random order of the same points."""
    rows = []
    for place, name in enumerate(paths["path"]):
        scores = [
            f"{number(paths[score][place])} ({number(paths[f'{score}_shuffled'][place])}, p {number(paths[f'{score}_p'][place])})"
            for score in ("length", "smoothness", "monotonicity")
        ]
        rows.append([name, paths["meta"][place], paths["points"][place], *scores])
    return "<details><summary>Scores of every path, beside random orders of the same points</summary>" + (
        table(["network", "meta-model", "points", "length (random, p)", "smoothness", "monotonicity"], rows) + "</details>"
    )


def _accuracy(result: dict[str, Any]) -> str:
    base, meta, averaging = result["population"]["accuracy"], result["meta"]["accuracy"], result["averaging"]
    rows = [
        [
            name,
            f"{percent(own['mean'])} ± {100 * own['sd']:.2f}",
            percent(meta[name]["mean"]) if name in meta else "-",
            percent(averaging["within"].get(name)),
        ]
        for name, own in base.items()
    ]
    across = [[name, percent(value)] for name, value in averaging["across"].items()]
    drawn = [
        [name, percent(value["mean"]), percent(value["sd"]), percent(value["max"])] for name, value in averaging["random_theta"].items()
    ]
    return (
        table(["group", "base networks", "meta-model at theta", "meta-model at the group's mean vector"], rows)
        + f"<details><summary>Mean vectors of two groups</summary>{table(['two groups', 'accuracy at their mean vector'], across)}</details>"
        + table(["random vectors, judged by the labels", "mean", "sd", "best"], drawn)
    )
