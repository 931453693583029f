"""Verdicts on claims, from runs whose files say what is known to hold or not."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynamo_dist import InputError
from dynamo_dist.cli import main
from dynamo_dist.report.claims import CLAIMS, NOT_MEASURABLE, NOT_SUPPORTED, SUPPORTED, verdicts

DYNAMICS, OUTPUTS, THETA, CLUSTERS, COPIES, AVERAGES, LABELS, LANDSCAPE, PATH, POINTS = CLAIMS


def emulation(r2=0.9, agreement=0.95, disputed=0.9, share=0.1):
    return {
        "hidden_r2_median": r2, "hidden_r2_min": r2 - 0.1, "agreement_median": agreement, "agreement_min": 0.5,
        "disputed_agreement_median": disputed, "disputed_share": share,
    }  # fmt: skip


FINE = emulation()


def write_run(folder, *, seeds=(FINE,), control=None, analyses=None, computations=("a",) * 4 + ("b",) * 4, stages=(0.9,), title="A run"):
    folder.mkdir()
    result = {
        "recipe": "valence", "title": title, "seeds": list(seeds), "meta": seeds[0], "control": control or emulation(disputed=0.7),
        "population": {"networks": len(computations), "test_inputs": 1000, "accuracy": {"a": {"mean": 0.9, "sd": 0.01}}},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    columns = {"computation": computations, "stage_r2": pa.array([list(stages)] * len(computations), pa.list_(pa.float64()))}
    pq.write_table(pa.table(columns), folder / "networks.parquet")
    for name, summary in (analyses or {}).items():
        (folder / "analysis" / name).mkdir(parents=True)
        (folder / "analysis" / name / "summary.json").write_text(json.dumps(summary))
    return folder


def verdict(folder, claim):
    """The only one."""
    (found,) = (one for one in verdicts([folder]) if one.claim == claim)
    return found.verdict


def similarity(rand, p=0.001):
    row = {"adjusted_rand": rand, "nearest_neighbour": 0.9, "silhouette": 0.5, "p_value": p, "networks": 8, "meta_models": 1}
    return {"similarity": {"measures": {"theta": row, "cka": row | {"adjusted_rand": 0.3}}}}


@pytest.mark.parametrize(
    ("given", "claim", "expected"),
    [
        ({}, DYNAMICS, SUPPORTED),
        ({"seeds": (emulation(), emulation(r2=0.74))}, DYNAMICS, NOT_SUPPORTED),  # every meta-model counts
        ({"seeds": (emulation(r2=0.72),), "stages": (0.7, 0.8)}, DYNAMICS, SUPPORTED),  # images are asked for less
        ({"seeds": (emulation(agreement=0.92),)}, OUTPUTS, NOT_SUPPORTED),
        ({"seeds": (emulation(agreement=0.92),), "stages": (0.9, 0.9)}, OUTPUTS, SUPPORTED),
        ({}, THETA, SUPPORTED),
        ({"control": emulation(disputed=0.85)}, THETA, NOT_SUPPORTED),
        ({"seeds": (emulation(share=0.02),)}, THETA, NOT_MEASURABLE),  # 20 inputs
        ({"analyses": similarity(1.0)}, CLUSTERS, SUPPORTED),
        ({"analyses": similarity(0.7)}, CLUSTERS, NOT_SUPPORTED),
        ({"analyses": similarity(1.0, p=0.06)}, CLUSTERS, NOT_SUPPORTED),
        ({"analyses": similarity(1.0, p=0.33), "computations": ("a", "a", "b", "b")}, CLUSTERS, NOT_MEASURABLE),  # three ways
        ({"analyses": {"reparameterize": {"pairs": 8, "ratio": {"theta": 0.02, "weights": 1.1}}}}, COPIES, SUPPORTED),
        ({"analyses": {"reparameterize": {"pairs": 8, "ratio": {"theta": 0.3, "weights": None}}}}, COPIES, NOT_SUPPORTED),
    ],
)
def test_verdicts(tmp_path, given, claim, expected):
    assert verdict(write_run(tmp_path / "run", **given), claim) == expected


def average(base, mean_theta):
    scores = {"base": {"mean": base}, "mean_theta": mean_theta, "weight_average": 0.5, "matched_average": None, "random_theta": {"mean": 0.6}}
    return scores


def test_averages_within_and_across_groups(tmp_path):
    found = {"a": average(0.85, 0.84), "b": average(0.8, 0.81), "a + b": average(0.82, 0.79)}
    folder = write_run(tmp_path / "run", analyses={"averaging": found})
    within, across = (one for one in verdicts([folder]) if one.claim == AVERAGES)
    assert (within.verdict, across.verdict) == (SUPPORTED, NOT_SUPPORTED)
    assert "+3.00 points below (a + b: 79.00 % at theta-bar)" in across.measured and "mean of the weights 50.00 %" in across.measured


@pytest.mark.parametrize(("best", "expected"), [(0.90, SUPPORTED), (0.862, NOT_MEASURABLE), (0.84, NOT_SUPPORTED)])
def test_a_better_point_is_better_than_chance(tmp_path, best, expected):
    """The best network answers 86 % of 1,000 inputs: a sampling error of 1.1 points."""
    found = {"task": {"best": {"test": best}, "base": {"max": 0.86}, "test_inputs": 1000}, "other": {"does_not_apply": "values"}}
    assert verdict(write_run(tmp_path / "run", analyses={"landscape": found}), LANDSCAPE) == expected


@pytest.mark.parametrize(("few", "expected"), [(0.81, SUPPORTED), (0.79, NOT_SUPPORTED)])
def test_labels_never_harm(tmp_path, few, expected):
    def row(labels, optimised):
        return {"labels": labels, "optimised_theta": {"mean": optimised}, "base_mean": {"mean": 0.8}, "scratch": {"mean": 0.6}}

    found = {"task": {"fractions": {"0.1": row(100, few), "1": row(1000, 0.9)}}}
    assert verdict(write_run(tmp_path / "run", analyses={"semisupervised": found}), LABELS) == expected


def test_what_does_not_apply_says_nothing(tmp_path):
    folder = write_run(tmp_path / "run", analyses={"similarity": {"does_not_apply": "all alike"}, "trajectory": {"does_not_apply": "none"}})
    assert {one.claim for one in verdicts([folder])} == {DYNAMICS, OUTPUTS, THETA}


def test_the_page_holds_every_verdict_and_no_markup_of_others(tmp_path, capsys):
    paths = 3 * [{"mean": 1.0, "shuffled": 2.0, "largest_p": 0.01}]
    first = write_run(tmp_path / "first", analyses=similarity(1.0), title="<script>alert(1)</script>")
    second = write_run(
        tmp_path / "second", analyses={"trajectory": {"paths": 2, **dict(zip(("length", "smoothness", "monotonicity"), paths, strict=True))}}
    )
    assert main(["claims", str(first), str(second), "--out", str(tmp_path / "page")]) == 0
    page = (tmp_path / "page" / "claims.html").read_text()
    found = json.loads((tmp_path / "page" / "claims.json").read_text())
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "claims.html")
    assert len(found) == 8 and {one["claim"] for one in found} == {DYNAMICS, OUTPUTS, THETA, CLUSTERS, PATH}
    assert "<script>" not in page and page.count("<td>supported</td>") == 8 and all(claim in page for claim in CLAIMS)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no finished run"):
        verdicts([tmp_path])
    (tmp_path / "result.json").write_text('{"networks": 3}')
    with pytest.raises(InputError, match="is no run of a recipe"):
        verdicts([tmp_path])
    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is damaged"):
        verdicts([tmp_path])
