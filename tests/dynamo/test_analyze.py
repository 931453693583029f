"""`dynamo-dist analyze`, and recipes that end with analyses: files, findings, wrong input."""

import json

import pyarrow.parquet as pq
import pytest

from dynamo_dist import MetaModel, Population
from dynamo_dist.analysis.suite import ANALYSES, SUMMARY
from dynamo_dist.cli import main
from dynamo_dist.report.analyses import FIGURES


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished tiny run in one process."""
    out = tmp_path_factory.mktemp("runs") / "averaging"
    assert main(["run", "averaging", "--size", "tiny", "--workers", "0", "--seeds", "2", "--out", str(out)]) == 0
    return out


def refused(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("[")]
    assert status == 2 and captured.out == "" and len(lines) == 1 and lines[0].startswith("dynamo-dist: ")
    return lines[0]


def test_a_recipe_ends_with_its_analyses(run):
    result = json.loads((run / "result.json").read_text())
    assert set(result["analyses"]) == {"averaging"}
    assert result["analyses"]["averaging"] == json.loads((run / "analysis" / "averaging" / SUMMARY).read_text())
    rows = pq.read_table(run / "analysis" / "averaging" / "averaging.parquet").to_pylist()
    one = next(row for row in rows if row["name"] == "perfect gru-32" and row["method"] == "mean_theta")
    assert one["score"] == result["analyses"]["averaging"]["perfect gru-32"]["mean_theta"]
    # The same vectors on the same test part as in the run's own table.
    assert one["score"] == pytest.approx(result["averaging"]["within"]["perfect gru-32"], abs=1e-12)


@pytest.mark.slow
def test_all_analyses_of_a_run(run, capsys):
    assert main(["analyze", str(run), "--all", "--workers", "0", "--json"]) == 0
    *paths, line = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert list(found) == list(ANALYSES)
    assert paths == [str(run / "analysis" / name / SUMMARY) for name in ANALYSES]
    for name, summary in found.items():
        assert summary == json.loads((run / "analysis" / name / SUMMARY).read_text())
        tables = list((run / "analysis" / name).glob("*.parquet"))
        if name in FIGURES and tables:
            # The run has two tasks, and some analyses are of one.
            figures = [f"{name}-0", f"{name}-1"] if name in ("landscape", "semisupervised") else [name]
            for figure in figures:
                assert (run / "analysis" / name / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
                assert "<svg" in (run / "analysis" / name / f"{figure}.svg").read_text()
                assert (run / "analysis" / name / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
        assert all(pq.read_table(table).num_rows >= 0 for table in tables)
        assert bool(tables) != ("does_not_apply" in summary), name
    # Only what asks for copies, or for networks along their training, has nothing to say here, and says so.
    assert [name for name, summary in found.items() if "does_not_apply" in summary] == ["trajectory", "reparameterize"]
    assert set(found["landscape"]) == set(found["semisupervised"]) == {"perfect", "leaky"}
    assert found["similarity"]["meta_models"] == 2 and found["stability"]["pairs"] == 1


def test_one_meta_model_is_analysed_in_its_own_folder(run, capsys):
    assert main(["analyze", str(run / "meta-1"), "landscape", "--workers", "0"]) == 0
    assert (run / "meta-1" / "analysis" / "landscape" / "landscape.parquet").exists()
    assert MetaModel.open(run / "meta-1").config.seed == 1
    message = refused_after_work(capsys, "analyze", run / "meta-1", "stability", "--workers", "0")
    assert "stability: one meta-model" in message and "train another one with another seed" in message


def refused_after_work(capsys, *arguments):
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_wrong_input_is_one_sentence(run, tmp_path, capsys):
    capsys.readouterr()
    assert "say which analyses, or --all: the analyses are similarity, " in refused(capsys, "analyze", run)
    assert "say which analyses, or --all" in refused(capsys, "analyze", run, "landscape", "--all")
    assert "unknown analysis 'landscapes': the analyses are similarity, " in refused(capsys, "analyze", run, "landscapes")
    assert f"{tmp_path} holds no meta-model: give the folder of a run" in refused(capsys, "analyze", tmp_path, "--all")


@pytest.mark.slow
def test_copies_are_embedded_beside_their_originals(tmp_path):
    out = tmp_path / "copies"
    assert main(["run", "reparameterize", "--size", "tiny", "--workers", "0", "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    both, originals = Population.open(out / "copies"), Population.open(out / "population")
    assert len(both) == 3 * len(originals) and MetaModel.open(out / "meta-0").network_ids == both.network_ids
    ratio = result["analyses"]["reparameterize"]["ratio"]
    # A copy answers as its original, and has other weights; how near its vector is takes a trained meta-model.
    assert ratio["outputs"] < 0.01 and ratio["weights"] > 0.5
    assert 0 < ratio["theta"]
