"""What is claimed of model embeddings beside what runs have measured: supported, not supported, or not measurable at this size.

The claims are those of arXiv 2302.14078 and what our experiments expect beyond it, in our words; every threshold is ours and stands beside
the verdict.
Every verdict is a function of the files of a run: nothing is measured again.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dynamo_dist.commit import understood, write_json
from dynamo_dist.errors import InputError
from dynamo_dist.report.page import document, percent, table, text

SUPPORTED, NOT_SUPPORTED, NOT_MEASURABLE = "supported", "not supported", "not measurable at this size"
SIGNIFICANT = 0.05
# Below this share of inputs on which the networks differ, agreement on them is a matter of a few inputs.
FEWEST_DISPUTED = 30


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One claim, tried on one run."""

    claim: str
    run: str
    # What must hold, and what was found, as sentences with their numbers.
    asked: str
    measured: str
    verdict: str


@dataclass(frozen=True)
class Run:
    """The files of a finished run."""

    path: Path
    result: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Raises `InputError` where there is no finished run of a recipe."""
        file = path / "result.json"
        if not file.exists():
            raise InputError(f"{path} holds no finished run (no result.json there): finish it with --resume")
        with understood(file):
            result = dict(json.loads(file.read_text()))
        if "recipe" not in result or "control" not in result:
            raise InputError(f"{path} is no run of a recipe: claims are judged on what `dynamo-dist run` wrote")
        return cls(path, result)

    def analysis(self, name: str) -> dict[str, Any] | None:
        """The findings of an analysis, or None where it was not run or does not apply."""
        file = self.path / "analysis" / name / "summary.json"
        if not file.exists():
            return None
        with understood(file):
            summary = dict(json.loads(file.read_text()))
        return None if "does_not_apply" in summary else summary

    def networks(self, column: str) -> list[Any]:
        """A column of the table of the embedded networks."""
        with understood(self.path / "networks.parquet"):
            return list(pq.read_table(self.path / "networks.parquet", columns=[column])[column].to_pylist())

    @property
    def convolutional(self) -> bool:
        return any(len(stages) > 1 for stages in self.networks("stage_r2"))  # recurrent networks have one


def verdicts(paths: Sequence[Path]) -> list[Verdict]:
    """Every claim on every run that says something of it. Raises `InputError` for a folder that holds no finished run."""
    return _judged([Run.open(path) for path in paths])


def _judged(runs: Sequence[Run]) -> list[Verdict]:
    return [
        Verdict(claim=claim, run=run.result["title"], asked=asked, measured=measured, verdict=verdict)
        for claim, judge in CLAIMS.items()
        for run in runs
        for asked, measured, verdict in judge(run)
    ]


# Of what was asked, what was measured, and the verdict.
Judged = Iterator[tuple[str, str, str]]


def _holds(condition: bool) -> str:
    return SUPPORTED if condition else NOT_SUPPORTED


def _dynamics(run: Run) -> Judged:
    least = 0.7 if run.convolutional else 0.75
    r2 = [seed["hidden_r2_median"] for seed in run.result["seeds"]]
    control = run.result["control"]["hidden_r2_median"]
    measured = f"{_over_seeds(r2)}; lowest network {run.result['meta']['hidden_r2_min']:.3f}; without theta {control:.3f}"
    yield f"median hidden R² over networks of at least {least}", measured, _holds(min(r2) >= least)


def _outputs(run: Run) -> Judged:
    least = 0.9 if run.convolutional else 0.93
    agreement = [seed["agreement_median"] for seed in run.result["seeds"]]
    measured = f"{_over_seeds(agreement)}; without theta {run.result['control']['agreement_median']:.3f}"
    yield f"median agreement over networks of at least {least}", measured, _holds(min(agreement) >= least)


def _theta_matters(run: Run) -> Judged:
    own = [seed["disputed_agreement_median"] for seed in run.result["seeds"]]
    control, share = run.result["control"]["disputed_agreement_median"], run.result["meta"]["disputed_share"]
    if control is None or None in own:
        return
    asked = "agreement on inputs that divide the networks at least 0.10 above the same meta-model without theta"
    disputed = round(share * run.result["population"]["test_inputs"])
    measured = f"{_over_seeds(own)} against {control:.3f} on {disputed:,} inputs ({percent(share)})"
    yield asked, measured, _holds(min(own) >= control + 0.1) if disputed >= FEWEST_DISPUTED else NOT_MEASURABLE


def _clusters(run: Run) -> Judged:
    found = run.analysis("similarity")
    if found is None:
        return
    theta = found["measures"]["theta"]
    others = {
        name: row for name, row in found["measures"].items() if name not in ("theta", "pulled_back") and row["adjusted_rand"] is not None
    }
    measured = ", ".join(
        f"{word} {theta[name]:.2f}" + ("" if theta.get(f"{name}_sd") is None else f" ± {theta[f'{name}_sd']:.2f}")
        for name, word in (("adjusted_rand", "adjusted Rand"), ("nearest_neighbour", "nearest neighbour"), ("silhouette", "silhouette"))
    )
    models = "one meta-model" if theta["meta_models"] == 1 else f"{theta['meta_models']} meta-models"
    measured += f", p = {theta['p_value']:.3f}, {models} of {theta['networks']} networks"
    if others:
        best = max(others, key=lambda name: others[name]["adjusted_rand"])
        measured += f"; of the other measures {best} is best, adjusted Rand {others[best]['adjusted_rand']:.2f}"
    asked = f"adjusted Rand index of theta against the groups at least 0.8, shufflings of the labels seldom as good (p < {SIGNIFICANT})"
    # Of so few networks chance would sort one shuffling in this many.
    groupings = _groupings(run.networks("computation"))
    if 1 / groupings >= SIGNIFICANT:
        yield asked, f"{measured}; the labels can be dealt in {groupings} ways only", NOT_MEASURABLE
    else:
        yield asked, measured, _holds(theta["adjusted_rand"] >= 0.8 and theta["p_value"] < SIGNIFICANT)


def _groupings(labels: Sequence[str]) -> int:
    """In how many ways so many networks fall into groups of these sizes, whatever the groups are called."""
    sizes = Counter(labels).values()
    ways = math.factorial(len(labels)) // math.prod(map(math.factorial, sizes))
    return ways // math.prod(map(math.factorial, Counter(sizes).values()))


def _averages(run: Run) -> Judged:
    found = run.analysis("averaging")
    if found is None:
        return
    for across, kind in ((False, "one group"), (True, "two groups")):
        rows = {name: row for name, row in found.items() if (" + " in name) == across and row["base"] is not None}
        if not rows:
            continue
        lost = {name: row["base"]["mean"] - row["mean_theta"] for name, row in rows.items()}
        worst = max(lost, key=lambda name: lost[name])
        weights = [row["weight_average"] for row in rows.values() if row["weight_average"] is not None]
        matched = [row["matched_average"] for row in rows.values() if row["matched_average"] is not None]
        random = [row["random_theta"]["mean"] for row in rows.values() if row["random_theta"]]
        measured = f"of {len(rows)}, at worst {100 * lost[worst]:+.2f} points below ({worst}: {percent(rows[worst]['mean_theta'])} at theta-bar)"
        beside = {"mean of the weights": weights, "after matching": matched, "random theta": random}
        told = [f"{name} {percent(sum(scores) / len(scores))}" for name, scores in beside.items() if scores]
        measured += f"; on average {', '.join(told)}" if told else ""
        yield f"theta-bar of {kind} at most 2 points below the mean of its networks", measured, _holds(lost[worst] <= 0.02)


def _labels(run: Run) -> Judged:
    tasks = run.analysis("semisupervised") or {}
    for task, found in tasks.items():
        if "does_not_apply" in found:
            continue
        gained = {
            fraction: row["optimised_theta"]["mean"] - row["base_mean"]["mean"]
            for fraction, row in found["fractions"].items()
            if row["optimised_theta"] and row["base_mean"]
        }
        told = []
        for fraction, gain in gained.items():
            row = found["fractions"][fraction]
            scratch = f", from scratch {percent(row['scratch']['mean'])}" if row["scratch"] else ""
            told.append(f"{row['labels']} labels {percent(row['optimised_theta']['mean'])} ({100 * gain:+.2f} points{scratch})")
        named = f"{task}: " if len(tasks) > 1 else ""
        yield "theta optimised on few labels never below the mean network", named + "; ".join(told), _holds(min(gained.values()) >= 0)


def _landscape(run: Run) -> Judged:
    tasks = run.analysis("landscape") or {}
    for task, found in tasks.items():
        if "does_not_apply" in found:
            continue
        best, base, inputs = found["best"]["test"], found["base"]["max"], found["test_inputs"]
        # Two shares of the same inputs: how far they differ by the draw of these at most.
        noise = math.sqrt(max(best * (1 - best), 0) / inputs)
        named = f"{task}: " if len(tasks) > 1 else ""
        measured = f"{named}{percent(best)} at the point chosen by labelled inputs, best network {percent(base)}, on {inputs:,} test inputs"
        verdict = SUPPORTED if best > base + noise else NOT_MEASURABLE if best > base - noise else NOT_SUPPORTED
        yield f"a point of the plane better than every network by more than the sampling error ({100 * noise:.2f} points)", measured, verdict


def _training_path(run: Run) -> Judged:
    found = run.analysis("trajectory")
    if found is None:
        return
    told = [
        f"{name} {found[name]['mean']:.2f} (in random order {found[name]['shuffled']:.2f}, largest p {found[name]['largest_p']:.4f})"
        for name in ("length", "smoothness", "monotonicity")
    ]
    yield (
        f"every path shorter and smoother than its points in random order (p < {SIGNIFICANT})",
        f"{found['paths']} paths: {', '.join(told)}",
        _holds(all(found[name]["largest_p"] < SIGNIFICANT for name in ("length", "smoothness"))),
    )


def _copies(run: Run) -> Judged:
    found = run.analysis("reparameterize")
    if found is None or found["ratio"].get("theta") is None:
        return
    weights = found["ratio"].get("weights")
    beside = "" if weights is None else f", by weights {weights:.2f}"
    yield (
        "exact copies with other weights at most 0.1 of the distance between computations away",
        f"theta {found['ratio']['theta']:.3f}{beside}, {found['pairs']} pairs",
        _holds(found["ratio"]["theta"] <= 0.1),
    )


def _topology(run: Run) -> Judged:
    found = run.analysis("fixed-points") or {"inputs": {}}
    for name, own in found["inputs"].items():
        if "agreement" in own:
            yield (
                "as many stable fixed points as the network itself, for nine of ten networks",
                f"input {name}: equal for {percent(own['agreement']['stable_equal'])} of {found['networks']} networks",
                _holds(own["agreement"]["stable_equal"] >= 0.9),
            )


CLAIMS: dict[str, Callable[[Run], Judged]] = {
    "One meta-model reproduces the hidden-state dynamics of every network": _dynamics,
    "It reproduces their outputs": _outputs,
    "It does so by the embedding vector": _theta_matters,
    "Networks that compute alike have vectors that lie together": _clusters,
    "Copies with other weights have the same vector": _copies,
    "The mean of vectors is a network that works as well": _averages,
    "A few labels choose a vector": _labels,
    "The space holds better networks than those it was made of": _landscape,
    "Training is a smooth path through it": _training_path,
    "Fixed points of the meta-model are those of the network": _topology,
}


def _over_seeds(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f} (one meta-model)"
    mean = sum(values) / len(values)
    sd = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{mean:.3f} ± {sd:.3f} over {len(values)} meta-models, lowest {min(values):.3f}"


def write_claims(paths: Sequence[Path], out: Path) -> tuple[Path, list[Verdict]]:
    """Write `claims.html`, and the same as `claims.json`, into the folder `out`; returns the page's path and the verdicts."""
    runs = [Run.open(path) for path in paths]
    found = _judged(runs)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "claims.json", [asdict(verdict) for verdict in found])
    page = out / "claims.html"
    page.write_text(document("Claims, and what was measured", _body(found, runs)), encoding="utf-8")
    return page, found


def _body(found: Sequence[Verdict], runs: Sequence[Run]) -> str:
    counts = ", ".join(f"{sum(one.verdict == verdict for one in found)} {verdict}" for verdict in (SUPPORTED, NOT_SUPPORTED, NOT_MEASURABLE))
    parts = [
        f"<p>{text(counts)}. The claims are those of arXiv 2302.14078 and what these experiments expect beyond it, in our "
        "words; the thresholds are ours. "
        "The control is the same meta-model and training with the embedding vector fixed at zero.</p>"
    ]
    for claim in CLAIMS:
        rows = [[one.run, one.verdict, one.asked, one.measured] for one in found if one.claim == claim]
        if rows:
            parts += [f"<h2>{text(claim)}</h2>", table(["run", "verdict", "asked", "measured"], rows, "words")]
    if untried := [claim for claim in CLAIMS if all(one.claim != claim for one in found)]:
        parts.append("<h2>Of what these runs say nothing</h2>" + "".join(f'<p class="note">{text(claim)}</p>' for claim in untried))
    rows = []
    for run in runs:
        for group, score in run.result["population"]["accuracy"].items():
            accuracy = f"{percent(score['mean'])} ± {100 * score['sd']:.2f}"
            rows.append([run.result["title"], run.result["recipe"], run.result["population"]["networks"], group, accuracy])
    parts.append("<h2>The networks of these runs</h2>")
    parts.append(table(["run", "recipe", "networks", "group", "test accuracy, or R²"], rows))
    return "\n".join(parts)
