"""The sweep as users meet it: what is trained, how it is scored, what is recommended; and the event files for TensorBoard."""

import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from dynamo_dist import InputError, MetaModel, MetaModelConfig
from dynamo_dist.analysis.sweep import Row, recommend, settings
from dynamo_dist.cli import main
from dynamo_dist.commit import read_lines
from dynamo_dist.metamodel.events import FILES, EventFiles
from dynamo_dist.runtime import LocalRuntime

SMALL = {"dimensions": 4, "hidden": 8, "embedding": 4, "steps": 60, "batch": 16, "checkpoint_every": 20, "held_out": 0.2}
NAMES = ["given", "dimensions-2", "dimensions-8", "hidden-4", "hidden-16", "output_weight-0.3", "output_weight-3", "control"]
# Of the 300 inputs without labels of the small population.
HELD_OUT = slice(240, 300)


def arguments(population, out, *flags, **changes):
    given = [f"--set={name}={value}" for name, value in {**SMALL, **changes}.items()]
    return ["embed", str(population.path), "--out", str(out), "--workers", "0", *given, *flags]


@pytest.fixture(scope="module")
def swept(population, tmp_path_factory):
    """A finished sweep in one process. Tests must not change it."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    assert main(arguments(population, out, "--sweep")) == 0
    return out


@pytest.fixture(scope="module")
def rows(swept):
    return {row["name"]: row for row in pq.read_table(swept / "sweep.parquet").to_pylist()}


def test_seven_models_and_the_control_are_in_one_table(swept, rows):
    assert list(rows) == NAMES
    varied = ("dimensions", "hidden", "output_weight", "use_theta")
    assert [tuple(row[field] for field in varied) for row in rows.values()] == [
        (4, 8, 1.0, True), (2, 8, 1.0, True), (8, 8, 1.0, True), (4, 4, 1.0, True), (4, 16, 1.0, True), (4, 8, 0.3, True), (4, 8, 3.0, True),
        (4, 8, 1.0, False),
    ]  # fmt: skip
    for name in NAMES:
        meta = MetaModel.open(swept / name)
        assert all(getattr(meta.config, field) == rows[name][field] for field in varied)
    assert (MetaModel.open(swept / "control").embedding == 0).all() and (MetaModel.open(swept / "given").embedding != 0).any()
    result = json.loads((swept / "result.json").read_text())
    assert result["models"] == list(rows.values()) and result["networks"] == 6
    assert set(result["recommended"]) >= {"dimensions", "hidden", "output_weight", "model", "reason", "theta_pays", "theta_reason"}


def test_scores_are_those_of_plain_modules_on_the_held_out_inputs(swept, rows, population):
    part = population.data.meta
    inputs, lengths = part.inputs[HELD_OUT], part.lengths_N[HELD_OUT]
    with torch.no_grad():
        logits = {id: population.network(id)(inputs, lengths)[1] for id in population.network_ids}
    base = np.stack([own.argmax(-1).numpy() for own in logits.values()])
    disputed = (base != base[0]).any(axis=0)
    assert 0 < disputed.sum() < len(disputed)
    for name in ("given", "control"):
        meta = MetaModel.open(swept / name)
        assert list(logits) == list(meta.network_ids)
        answers = [meta.emulate(theta, inputs, lengths)[1] for theta in meta.embedding]
        same = np.stack([own.argmax(-1).numpy() for own in answers]) == base
        kl = [
            float(torch.nn.functional.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean"))
            for ours, theirs in zip(answers, logits.values(), strict=True)
        ]
        assert rows[name]["agreement"] == pytest.approx(np.median(same.mean(axis=1)))
        assert rows[name]["disputed_agreement"] == pytest.approx(np.median(same[:, disputed].mean(axis=1)))
        assert rows[name]["output_kl"] == pytest.approx(np.median(kl), rel=1e-3)
        assert rows[name]["output_r2"] is None
        # What training recorded at the checkpoint that is opened is the mean of the same KL.
        assert rows[name]["output_error"] == pytest.approx(np.mean(kl), rel=1e-3)


def test_the_loss_is_on_one_scale_whatever_the_weight_in_training(swept, rows):
    for name, row in rows.items():
        line = next(line for line in read_lines(swept / name / "progress.jsonl") if line["step"] == row["step"])
        hidden, output = line["held_out_hidden"], line["held_out_output"]
        assert row["loss"] == pytest.approx(hidden + output)
        assert line["held_out_loss"] == pytest.approx(hidden + row["output_weight"] * output)


def test_parameters_are_counted(swept, rows):
    for name, row in rows.items():
        tensors = load_file(swept / name / f"step-{row['step']:08d}" / "shared.safetensors")
        assert row["shared_parameters"] == sum(t.numel() for key, t in tensors.items() if not key.startswith(("mean.", "square.")))
        # Four GRUs of 7 units, two vanilla RNNs of 9: theta, and a matrix and a bias each.
        theta, hidden = row["dimensions"] * row["use_theta"], row["hidden"]
        assert row["private_parameters"] == 4 * (theta + 7 * hidden + 7) + 2 * (theta + 9 * hidden + 9)


def test_the_table_and_the_recommendation_are_told(swept, population, capsys):
    """And a finished sweep trains nothing again."""
    before = {path: path.stat().st_mtime_ns for path in swept.rglob("step-*/*")}
    table = (swept / "sweep.parquet").read_bytes()
    assert main(arguments(population, swept, "--sweep", "--resume")) == 0
    told = capsys.readouterr()
    assert told.out == f"{swept / 'result.json'}\n"
    assert all(f"\n{name} " in told.err for name in NAMES) and "disputed" in told.err and "output R^2" not in told.err
    recommended = json.loads((swept / "result.json").read_text())["recommended"]
    assert recommended["reason"] in told.err and recommended["theta_reason"] in told.err
    assert {path: path.stat().st_mtime_ns for path in swept.rglob("step-*/*")} == before
    assert (swept / "sweep.parquet").read_bytes() == table


def test_an_interrupted_sweep_trains_what_is_left_and_in_one_call(population, tmp_path, monkeypatch):
    calls = []

    class Stopped(KeyboardInterrupt): ...

    def train(self, jobs, *, most=3, real=LocalRuntime.train):
        calls.append([job.out.rpartition("/")[2] for job in jobs])
        real(self, jobs[:most])
        if len(jobs) > most:
            raise Stopped

    monkeypatch.setattr(LocalRuntime, "train", train)
    given = arguments(population, tmp_path / "out", "--sweep", steps=2, checkpoint_every=2)
    assert main(given) == 130
    monkeypatch.setattr(LocalRuntime, "train", lambda self, jobs: train(self, jobs, most=8))
    assert main([*given, "--resume"]) == 0
    assert calls == [NAMES, NAMES[3:]]
    assert pq.read_table(tmp_path / "out" / "sweep.parquet")["name"].to_pylist() == NAMES


def test_what_cannot_be_swept_is_refused_before_anything_starts(population, tmp_path, capsys):
    for change, said in {
        ("use_theta", "false"): "every model would be the control",
        ("dimensions", 1): "dimensions=1: there is no half of it",
        ("hidden", 1): "hidden=1: there is no half of it",
        ("output_weight", 0): "output_weight=0: three times that is 0 as well",
        ("held_out", 0.001): "of the 300 inputs without labels of the data set 'data' none is held out",
    }.items():
        assert main(arguments(population, tmp_path / "out", "--sweep", **dict([change]))) == 2
        captured = capsys.readouterr()
        assert said in captured.err and len(captured.err.splitlines()) == 1 and captured.out == ""
    assert not (tmp_path / "out").exists()


def test_a_sweep_and_a_meta_model_are_not_mixed(swept, population, capsys):
    assert main(arguments(population, swept, "--resume")) == 2
    assert "holds another run (sweep" in capsys.readouterr().err


def test_half_and_double_of_odd_settings(population):
    models = settings(MetaModelConfig(dimensions=5, hidden=7, output_weight=0.3), population)
    assert list(models) == [
        "given", "dimensions-2", "dimensions-10", "hidden-3", "hidden-14", "output_weight-0.09", "output_weight-0.9", "control",
    ]  # fmt: skip
    assert models["output_weight-0.9"].output_weight == 0.9


def made_up(name, loss, *, hidden=0.1, disputed=0.9, **fields):
    """A row with nothing in it but what decides."""
    nothing = {field: 0.0 for field in ("output_error", "hidden_r2_median", "hidden_r2_min", "output_kl", "seconds_per_step")}
    counts = {"step": 1, "shared_parameters": 1, "private_parameters": 1}
    setting = {"dimensions": 4, "hidden": 64, "output_weight": 1.0, "use_theta": name != "control"}
    field, _, value = name.rpartition("-")
    if field:
        setting[field] = float(value) if field == "output_weight" else int(value)
    row = {"loss": loss, "hidden_error": hidden, "disputed_agreement": disputed, "agreement": 0.95, "output_r2": None, **fields}
    return Row(name=name, **{**nothing, **counts, **setting, **row})


def made_up_rows(**changes):
    """All as good as the given one but for `changes`: by name (with _ for - and p for .) the arguments of `made_up`."""
    rows = {
        name: made_up(name, 0.2)
        for name in ("given", "dimensions-2", "dimensions-8", "hidden-32", "hidden-128", "output_weight-0.3", "output_weight-3")
    }
    rows["control"] = made_up("control", 0.2, disputed=0.8)
    return list({**rows, **{row.name: row for row in changes.values()}}.values())


def test_where_all_are_alike_the_smallest_is_recommended_with_the_given_weight():
    found = recommend(made_up_rows())
    assert (found.dimensions, found.hidden, found.output_weight) == (2, 32, 1.0)
    # Never trained together: that is said, not hidden.
    assert found.model is None and "train one and compare" in found.reason


def test_within_five_percent_of_the_best_of_its_own_axis_counts():
    # D: best 0.100, so 0.105 is within and 0.1051 is not. K: twice the units halve the loss, which says nothing of D.
    d2, d8 = made_up("dimensions-2", 0.1051), made_up("dimensions-8", 0.1)
    k32, k128 = made_up("hidden-32", 0.3), made_up("hidden-128", 0.05)
    found = recommend(made_up_rows(a=made_up("given", 0.105), b=d2, c=d8, d=k32, e=k128))
    assert (found.dimensions, found.hidden, found.output_weight) == (4, 128, 1.0)
    assert found.model == "hidden-128" and "train one" not in found.reason
    assert "(0.0500), and the largest that was tried: more may do better; lambda" in found.reason


def test_the_weight_is_chosen_by_disputed_agreement_among_the_close_in_hidden_error():
    d, k = made_up("dimensions-2", 9.0), made_up("hidden-32", 9.0)
    best_but_far = made_up("output_weight-3", 0.2, hidden=0.1051, disputed=0.99)
    close = made_up("output_weight-0.3", 0.2, hidden=0.1, disputed=0.91)
    found = recommend(made_up_rows(a=d, b=k, c=best_but_far, d=close))
    assert (found.dimensions, found.hidden, found.output_weight, found.model) == (4, 64, 0.3, "output_weight-0.3")
    # Its own loss is not asked: weights are not compared by it.
    found = recommend(made_up_rows(a=d, b=k, c=made_up("output_weight-3", 5.0, hidden=0.104, disputed=0.99)))
    assert found.output_weight == 3.0


def test_of_networks_that_answer_with_values_the_output_r2_chooses_the_weight_and_the_loss_judges_theta():
    values = {"disputed": None, "agreement": None}
    rows = [
        made_up(row.name, 0.95 if row.name != "control" else 1.0, **values, output_r2=0.9 + 0.01 * (row.name == "output_weight-3"))
        for row in made_up_rows()
    ]
    found = recommend(rows)
    assert found.output_weight == 3.0 and "output R^2 (0.9100)" in found.reason
    assert not found.theta_pays and "held-out loss 0.9500 against 1.0000 of the control" in found.theta_reason
    rows[0] = made_up("given", 0.94, **values, output_r2=0.9)
    assert recommend(rows).theta_pays


def test_theta_pays_when_it_is_a_tenth_above_the_control_on_disputed_inputs():
    assert recommend(made_up_rows()).theta_pays  # 0.9 against 0.8
    found = recommend(made_up_rows(a=made_up("control", 9.0, disputed=0.801)))
    assert not found.theta_pays and "theta does not pay: disputed agreement 0.9000 against 0.8010 of the control" in found.theta_reason


def points(folder):
    """All points of the one event file of a folder, as (tag, step, value), also those that a reader would purge."""
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_file_loader", reason="tensorboard is not installed: pip install '.[tensorboard]'"
    )
    (file,) = folder.glob(FILES)
    found = [
        (value.tag, event.step, value.tensor.float_val[0])
        for event in loader.EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    return sorted(found)


def recorded(folder):
    tags = {
        f"{term}/{part}": prefix + term
        for term in ("loss", "hidden", "output")
        for part, prefix in (("training", ""), ("held-out", "held_out_"))
    }
    lines = read_lines(folder / "progress.jsonl")
    return sorted((tag, line["step"], line[name]) for line in lines for tag, name in tags.items() if name in line)


def assert_same_points(folder):
    written, truth = points(folder), recorded(folder)
    assert [point[:2] for point in written] == [point[:2] for point in truth] and truth
    assert np.allclose([point[2] for point in written], [point[2] for point in truth], rtol=1e-6)


def test_event_files_are_the_record_also_of_a_run_that_is_continued(population, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install '.[tensorboard]'")
    out = tmp_path / "out"
    given = arguments(population, out, "--tensorboard")
    assert main(given) == 0
    assert_same_points(out)
    # As if it had been killed after the record of its last steps and before their checkpoint: they are trained and recorded again.
    (out / "step-00000060" / "manifest.json").unlink()
    assert main([*given, "--resume"]) == 0
    assert len(points(out)) == 3 * 5 + 3 * 3  # training at steps 20, 25, 40, 50, 60; held out at 20, 40, 60
    assert_same_points(out)


def test_a_record_that_takes_steps_back_leaves_no_double_points(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install '.[tensorboard]'")
    record = tmp_path / "progress.jsonl"

    def write(*lines):
        record.write_text("".join(json.dumps({"step": step, "loss": loss, "hidden": 0.5, "output": 0.25}) + "\n" for step, loss in lines))

    with EventFiles([tmp_path]) as events:
        write((25, 3.0), (50, 2.0))
        events.update()
        write((25, 3.0), (50, 2.0), (75, 1.0))
        events.update()
        assert_same_points(tmp_path)
        write((25, 3.0), (50, 2.5))
        events.update()
        assert_same_points(tmp_path)
        record.write_text(record.read_text() + '{"step": 75, "lo')  # a line on its way
        events.update()
    assert_same_points(tmp_path)
    with EventFiles([tmp_path]):
        write((25, 3.0), (50, 2.5), (75, 1.5))
    assert_same_points(tmp_path)


def test_a_missing_package_is_one_sentence_before_anything_starts(population, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(arguments(population, tmp_path / "out", "--tensorboard")) == 2
    captured = capsys.readouterr()
    assert "pip install 'dynamo-jordan[tensorboard]'" in captured.err and len(captured.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="tensorboard is not installed"):
        EventFiles([tmp_path])
