"""`dynamo-dist embed` as users meet it: results, wrong input before anything starts, torchrun, the checkpoint that is opened."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from random_population import make_population, spec

from dynamo_dist import InputError, MetaModel, MetaModelConfig, Population, progress
from dynamo_dist import cli as command
from dynamo_dist.cli import main
from dynamo_dist.commit import Corrupted, read_lines
from dynamo_dist.data.attractors import ClassIntegrationTask, FlipFlopTask, make_class_integration, make_flip_flop
from dynamo_dist.data.images import DigitsTask, make_digits
from dynamo_dist.metamodel import checkpoint, folder
from dynamo_dist.metamodel.shard import Alone, Shard
from dynamo_dist.metamodel.training import Diverged, TrainingJob, train_shard
from dynamo_dist.networks import Convolutional
from dynamo_dist.pipeline import train_meta_model
from dynamo_dist.population import NetworkSpec

# Small enough for a second, long enough for several checkpoints.
SETTINGS = {"dimensions": 2, "hidden": 8, "embedding": 4, "batch": 6, "steps": 20, "checkpoint_every": 5}
CONFIG = MetaModelConfig(**SETTINGS)
FEW = {"base": 8, "meta": 40, "test": 8}


def embed(population, out, *more, settings=SETTINGS, **changed):
    """The command's arguments."""
    pairs = [f"--set={name}={value}" for name, value in {**settings, **changed}.items()]
    return ["embed", str(population), "--out", str(out), "--activations", "recompute", *pairs, *map(str, more)]


def refused(capsys, *arguments, status=2):
    """One sentence on standard error, which is returned."""
    try:
        found = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        found = stop.code
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if not line.startswith("[")]
    assert found == status and captured.out == "" and len(lines) == 1 and lines[0].startswith("dynamo-dist"), captured
    return lines[0]


@pytest.fixture
def nothing_starts(monkeypatch):
    def start(*_):
        raise AssertionError("a runtime was opened")

    monkeypatch.setattr(command, "open_runtime", start)


@pytest.fixture(scope="module")
def seven(valence, tmp_path_factory):
    """Seven networks as they start."""
    specs = [spec(f"gru {n}", valence) for n in range(4)] + [spec(f"rnn {n}", valence, cell="rnn", hidden=9) for n in range(3)]
    return make_population(tmp_path_factory.mktemp("seven") / "population", specs, valence)


def tensors_of(out):
    step = checkpoint.newest_verified(out)
    return {name: t.clone() for name, t in {**checkpoint.read_shared(step), **checkpoint.read_private(step)}.items()}


def damage(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


# ---- results ---------------------------------------------------------------------------------------------------------------


def test_embed_tells_progress_and_its_result(population, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL", 0.02)
    out = tmp_path / "meta"
    assert main(embed(population.path, out, "--workers", 0, "--json", steps=60)) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 2 and lines[0] == str(out / "result.json")
    result = json.loads(lines[1])
    assert result == json.loads((out / "result.json").read_text())
    assert result.keys() == {"networks", "losses", "notes", "config"}
    assert result["networks"] == 6 and result["config"]["dimensions"] == 2
    assert all(result["losses"][name] > 0 for name in ("loss", "hidden", "output", "held_out_loss"))
    shown = re.findall(r"step \d+/60, loss \d\.\d+ \(hidden .*\), hidden R\^2 -?\d\.\d+; \d+ s left", captured.err)
    assert shown
    meta = MetaModel.open(out)
    assert meta.network_ids == population.network_ids and meta.embedding.shape == (6, 2)


def test_a_finished_embedding_is_resumed_without_work_and_never_lost(population, tmp_path, capsys):
    out = tmp_path / "meta"
    assert main(embed(population.path, out, "--workers", 0)) == 0
    first = tensors_of(out)
    capsys.readouterr()
    assert "already holds a run of embed: continue it with --resume" in refused(capsys, *embed(population.path, out, "--workers", 0))
    assert "holds another run" in refused(capsys, *embed(population.path, out, "--workers", 0, "--resume", dimensions=3))
    assert "holds another run" in refused(capsys, *embed(population.path, out, "--workers", 0, "--resume", "--precision", "float64"))
    assert main(embed(population.path, out, "--workers", 0, "--resume")) == 0
    again = tensors_of(out)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert main(embed(population.path, out, "--workers", 0, "--overwrite", dimensions=3)) == 0
    assert MetaModel.open(out).embedding.shape == (6, 3)


def test_bfloat16_is_near_float32(population, tmp_path):
    losses = {}
    for precision in ("float32", "bfloat16"):
        out = tmp_path / precision
        meta = train_meta_model(
            population, out, config=dataclasses.replace(CONFIG, steps=60), precision=precision, activations="recompute"
        )
        losses[precision] = torch.tensor([[line[k] for k in ("loss", "hidden", "output")] for line in read_lines(out / "progress.jsonl")])
        assert meta.dtype == torch.float32 and torch.isfinite(torch.from_numpy(meta.embedding)).all()
    assert losses["bfloat16"].isfinite().all() and not torch.equal(losses["float32"], losses["bfloat16"])
    # Rounding of states to 2^-9 at each of 18 steps.
    assert (losses["bfloat16"] - losses["float32"]).abs().max() <= 18 * 2**-9


# ---- wrong input -----------------------------------------------------------------------------------------------------------


def test_wrong_settings_are_one_sentence_and_start_nothing(seven, tmp_path, capsys, nothing_starts):
    out = tmp_path / "out"

    def said(*more, **changed):
        return refused(capsys, *embed(seven.path, out, *more, **changed))

    assert "MetaModelConfig.dimensions=0: expected a positive number" in said(dimensions=0)
    assert "MetaModelConfig.hidden=-3: expected a positive number" in said(hidden=-3)
    assert "--set nonsense: expected NAME=VALUE with one of the names dimensions, " in said("--set", "nonsense")
    assert "--set depth=3: expected NAME=VALUE" in said("--set", "depth=3")
    assert "--set steps=many: expected a value like 1500" in said(steps="many")
    assert "8 workers for 7 networks: a worker needs at least one network; use fewer workers" in said("--workers", 8)
    assert "--workers -1: expected at least 0" in said("--workers", -1)
    assert "argument --precision: invalid choice: 'float16' (choose from " in said("--precision", "float16")
    assert "argument --activations: invalid choice: 'disk' (choose from " in said("--activations", "disk")
    assert "holds no population" in refused(capsys, *embed(tmp_path, out))
    assert not out.exists()


def test_wrong_arguments_in_python_are_refused_before_anything_starts(seven, tmp_path):
    for wrong, message in (
        ({"precision": "float16"}, "precision='float16': expected one of float32, float64, bfloat16"),
        ({"activations": "disk"}, "activations='disk': expected one of auto, recompute, cache"),
        ({"workers": 8}, "8 workers for 7 networks"),
    ):
        with pytest.raises(InputError, match=message):
            train_meta_model(seven, tmp_path / "out", config=CONFIG, **{"workers": 2, **wrong})
    assert not (tmp_path / "out").exists()


def test_unlike_tasks_are_refused_until_they_are_to_be_padded(tmp_path, capsys, nothing_starts):
    tasks = {
        "two": make_class_integration(ClassIntegrationTask(classes=2, **FEW)),
        "three": make_class_integration(ClassIntegrationTask(classes=3, **FEW)),
        "flip": make_flip_flop(FlipFlopTask(bits=1, **FEW)),
    }

    def population(*names):
        used = {name: tasks[name] for name in names}
        specs = [spec(f"{name} {n}", tasks[name], name=name) for name in names for n in range(2)]
        return make_population(tmp_path / "-".join(names), specs, used).path

    out = tmp_path / "out"
    message = refused(capsys, *embed(population("two", "three"), out))
    assert "data sets differ in vocabulary ('two' 4, 'three' 5): say how they map with unlike_tasks='pad'" in message
    assert "hold tokens and real values" in refused(capsys, *embed(population("two", "flip"), out))
    with pytest.raises(AssertionError, match="a runtime was opened"):
        main(embed(tmp_path / "two-three", out, unlike_tasks="pad"))
    assert not out.exists()


def test_unlike_classes_of_one_data_set_are_refused(valence, tmp_path, capsys, nothing_starts):
    def with_grades(part):
        return dataclasses.replace(part, targets={**part.targets, "grade": part.targets["perfect"] + 1})

    output = dataclasses.replace(valence.outputs["perfect"], size=3)
    parts = {name: with_grades(getattr(valence, name)) for name in ("base", "meta", "test")}
    data = dataclasses.replace(valence, outputs={**valence.outputs, "grade": output}, **parts)
    population = make_population(tmp_path / "p", [spec("a", data, target="perfect"), spec("b", data, target="grade")], data)
    message = refused(capsys, *embed(population.path, tmp_path / "out"))
    assert "networks answer with unlike outputs ('a' 2 classes, 'b' 3 classes): say how they map" in message


def test_images_and_sequences_have_no_meta_model_in_common(valence, tmp_path, capsys, nothing_starts):
    images = make_digits(DigitsTask())
    architecture = Convolutional(kind="resnet", depth=8, width=4, channels=1, outputs=10)
    network = NetworkSpec(
        id="image", group="image", computation="image", architecture=architecture, data="digits", target=next(iter(images.outputs)),
        seed=0, samples=1, batch=1,
    )  # fmt: skip
    data = {"valence": valence, "digits": images}
    population = make_population(tmp_path / "p", [spec("text", valence, name="valence"), network], data)
    for pad in ("refuse", "pad"):
        message = refused(capsys, *embed(population.path, tmp_path / "out", unlike_tasks=pad))
        assert "'valence' (tokens), 'digits' (images): images and sequences have no meta-model in common; embed them apart" in message


def test_missing_networks_are_named_or_left_out(valence, tmp_path, capsys):
    specs = [spec("gru", valence), spec("rnn", valence, cell="rnn"), spec("lstm", valence, cell="lstm")]
    population = make_population(tmp_path / "p", specs, valence, commit=lambda id: id != "rnn")
    out = tmp_path / "out"
    message = refused(capsys, *embed(population.path, out, "--workers", 2))
    assert f"{population.path}: 1 of 3 networks are not trained yet" in message and "--skip-failed" in message and not out.exists()
    assert main(embed(population.path, out, "--workers", 0, "--skip-failed")) == 0
    assert "1 of 3 networks are left out (failed, missing or damaged)" in capsys.readouterr().err
    assert MetaModel.open(out).network_ids == ("gru", "lstm")
    # It is trained meanwhile: the embedding is not of these networks any more.
    shutil.rmtree(population.path)
    make_population(tmp_path / "p", specs, valence)
    message = refused(capsys, *embed(population.path, out, "--workers", 0, "--skip-failed", "--resume"))
    assert "other networks of it; choose another folder" in message


def test_a_truncated_chunk_is_named_or_left_out(valence, tmp_path, capsys):
    population = make_population(tmp_path / "p", [spec("gru", valence), spec("rnn", valence, cell="rnn")], valence)
    (name,) = [name for name, chunk in population.committed().items() if "rnn" in [one.id for one in population.chunk_specs(chunk)]]
    weights = population.chunk_path(name) / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    out = tmp_path / "out"
    message = refused(capsys, *embed(population.path, out, "--workers", 2))
    assert f"{weights} is not what was committed" in message and "--skip-failed" in message and not out.exists()
    assert main(embed(population.path, out, "--workers", 0, "--skip-failed")) == 0
    assert f"left out: {weights} is not what was committed" in capsys.readouterr().err
    assert MetaModel.open(out).network_ids == ("gru",)


def test_networks_with_nan_weights_are_left_out_and_told(valence, tmp_path, capsys):
    specs = [spec(f"gru {n}", valence) for n in range(4)]
    population = make_population(tmp_path / "p", specs, valence, nan=("gru 1", "gru 2"))
    out = tmp_path / "out"
    assert main(embed(population.path, out, "--workers", 0)) == 0
    assert MetaModel.open(out).network_ids == ("gru 0", "gru 3")
    notes = json.loads((out / "notes.json").read_text())
    told = capsys.readouterr().err
    for id in ("gru 1", "gru 2"):
        note = f"left out: {id}: its states or outputs are not finite numbers"
        assert note in notes and note in told
    assert json.loads((out / "result.json").read_text())["notes"] == notes

    population = make_population(tmp_path / "none", specs, valence, nan=[one.id for one in specs])
    message = refused(capsys, *embed(population.path, tmp_path / "nothing", "--workers", 0))
    assert f"{population.path}: no network has finite states and outputs" in message


def test_a_worker_without_a_sound_network_is_told_to_all(valence, tmp_path):
    from test_metamodel import Threads

    population = make_population(tmp_path / "p", [spec(f"gru {n}", valence) for n in range(2)], valence, nan=("gru 1",))
    folder.prepare(tmp_path / "meta", population, CONFIG)
    job = TrainingJob(population=str(population.path), out=str(tmp_path / "meta"), config=CONFIG, activations="recompute")
    with pytest.raises(InputError, match=r"a worker of 2 has only networks whose states or outputs are not finite .*; use fewer workers"):
        Threads(2).run(lambda group: train_shard(job, group=group))


def test_foreign_and_old_folders_are_refused(seven, tmp_path, capsys, nothing_starts):
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years")
    for more in ((), ("--overwrite",), ("--resume",)):
        assert "is not empty and holds no run: choose another folder" in refused(capsys, *embed(seven.path, foreign, *more))
    old = tmp_path / "old"
    folder.prepare(old, seven, CONFIG)
    header = json.loads((old / "meta.json").read_text())
    (old / "meta.json").write_text(json.dumps({**header, "format": 1}))
    with pytest.raises(InputError, match=f"{old} has meta-model format 1, and this version reads 2: train it again in a new folder"):
        MetaModel.open(old)
    with pytest.raises(InputError, match="has meta-model format 1"):
        train_meta_model(seven, old, config=CONFIG)
    assert (foreign / "thesis.txt").read_text() == "years"


def test_another_configuration_or_precision_is_not_mixed_in(seven, tmp_path):
    train_meta_model(seven, tmp_path, config=CONFIG, activations="recompute")
    before = tensors_of(tmp_path)
    with pytest.raises(InputError, match="holds a meta-model of another configuration"):
        train_meta_model(seven, tmp_path, config=dataclasses.replace(CONFIG, hidden=9))
    job = TrainingJob(population=str(seven.path), out=str(tmp_path), config=CONFIG, precision="float64", activations="recompute")
    with pytest.raises(InputError, match="was trained with precision float32: continue it with that, not with float64"):
        train_shard(job, group=Alone())
    assert all(torch.equal(before[name], tensor) for name, tensor in tensors_of(tmp_path).items())


def test_a_loss_that_turns_nan_ends_the_command_and_keeps_the_last_checkpoint(seven, tmp_path, capsys, monkeypatch):
    backward, steps = Shard.backward, []

    def at_step_12(self, step, group):
        steps.append(step)
        return backward(self, step, group) * (float("nan") if step == 12 else 1)

    monkeypatch.setattr(Shard, "backward", at_step_12)
    out = tmp_path / "out"
    message = refused(capsys, *embed(seven.path, out, "--workers", 0), status=1)
    assert f"loss is not finite at step 12; {out} keeps the checkpoint step-00000010" in message
    assert "train it again in a new folder with a learning_rate below 0.005" in message and steps[-1] == 12
    assert checkpoint.committed_steps(out)[-1] == 10 and all(t.isfinite().all() for t in tensors_of(out).values())


def test_what_one_worker_finds_wrong_all_raise(seven, tmp_path, monkeypatch):
    from test_metamodel import Threads

    init = Shard.__init__

    def second_is_wrong(self, members, *more, **options):
        members = list(members)
        if "gru 0" not in [id for member in members for id in member.stack.ids]:
            raise InputError("these networks cannot be stacked")
        init(self, members, *more, **options)

    monkeypatch.setattr(Shard, "__init__", second_is_wrong)
    folder.prepare(tmp_path, seven, CONFIG)
    job = TrainingJob(population=str(seven.path), out=str(tmp_path), config=CONFIG, activations="recompute")
    raised = []

    def work(group):
        try:
            train_shard(job, group=group)
        except InputError as error:
            raised.append(str(error))

    Threads(3).run(work)
    assert raised == ["these networks cannot be stacked"] * 3


# ---- the checkpoint that is opened -----------------------------------------------------------------------------------------


@pytest.fixture
def held_out(monkeypatch):
    """Held-out losses of the checkpoints, as a test says."""

    def set_to(losses):
        left = iter(losses)

        def held_out_loss(self, group):
            loss = next(left)
            return loss, loss, 0.0

        monkeypatch.setattr(Shard, "held_out_loss", held_out_loss)

    return set_to


def train(population, out, **changed):
    config = dataclasses.replace(CONFIG, **{"checkpoint_every": 2, **changed})
    return train_meta_model(population, out, config=config, precision="float64", activations="recompute")


def shared_at(out, step):
    return {name: t.clone() for name, t in checkpoint.read_shared(checkpoint.step_path(out, step)).items()}


def test_the_best_checkpoint_survives_and_is_opened(seven, tmp_path, held_out):
    held_out([5, 4, 1, 3, 3, 3, 3, 3, 3, 3])
    meta = train(seven, tmp_path / "meta")
    assert checkpoint.committed_steps(tmp_path / "meta") == [6, 18, 20]
    # The truth: a run that is stopped there has these parameters. The learning rate depends on `steps`, so it is the same run.
    held_out([5, 4, 3])

    class Stopped(Exception):
        pass

    def stop(step):
        if step == 6:
            raise Stopped

    folder.prepare(tmp_path / "short", seven, meta.config)
    job = TrainingJob(
        population=str(seven.path), out=str(tmp_path / "short"), config=meta.config, precision="float64", activations="recompute"
    )
    with pytest.raises(Stopped):
        train_shard(job, group=Alone(), after_step=stop)
    truth = shared_at(tmp_path / "short", 6)
    assert all(torch.equal(t, truth[name]) for name, t in meta.dynamics.state_dict().items())


def test_without_held_out_inputs_the_last_checkpoint_is_opened(seven, tmp_path):
    meta = train(seven, tmp_path, held_out=0.0)
    assert checkpoint.committed_steps(tmp_path) == [18, 20]
    last = shared_at(tmp_path, 20)
    assert all(torch.equal(t, last[name]) for name, t in meta.dynamics.state_dict().items())


def test_patience_ends_training(seven, tmp_path, held_out):
    held_out([5, 4, 1, 3, 0.5, 3, 2, 4])
    meta = train(seven, tmp_path, patience=3)
    assert checkpoint.committed_steps(tmp_path) == [10, 14, 16] and folder.is_finished(tmp_path)
    assert read_lines(tmp_path / "progress.jsonl")[-1]["step"] == 16
    best = shared_at(tmp_path, 10)
    assert all(torch.equal(t, best[name]) for name, t in meta.dynamics.state_dict().items())
    held_out([])  # nothing is trained again
    train(seven, tmp_path, patience=3)


def test_a_held_out_loss_that_is_not_finite_stops_before_its_checkpoint(seven, tmp_path, held_out):
    held_out([5, 4, float("nan")])
    with pytest.raises(Diverged, match=f"held-out loss is not finite after step 6; {tmp_path} keeps the checkpoint step-00000004"):
        train(seven, tmp_path)
    assert checkpoint.committed_steps(tmp_path) == [2, 4]


def test_parameters_that_are_not_finite_are_never_committed(seven, tmp_path, monkeypatch):
    update = Shard.update

    def spoil(self, step):
        update(self, step)
        if step == 5:
            with torch.no_grad():
                self.private.theta[3, 1] = float("inf")

    monkeypatch.setattr(Shard, "update", spoil)
    with pytest.raises(Diverged, match="parameters are not finite after step 6"):
        train(seven, tmp_path, held_out=0.0)
    assert checkpoint.committed_steps(tmp_path) == [2, 4]


@pytest.mark.parametrize("patience", [0, 3])
def test_a_damaged_best_checkpoint_is_told_and_the_newest_takes_its_place(seven, tmp_path, held_out, patience):
    held_out([5, 1, 3, 3, 3, 3, 3, 3, 3, 3])
    train(seven, tmp_path, patience=patience)
    end = 10 if patience else 20
    damage(checkpoint.step_path(tmp_path, 4) / "shared.safetensors")
    with pytest.raises(Corrupted, match=r"step-00000004/shared.safetensors is not what was committed .*; train the meta-model again with"):
        MetaModel.open(tmp_path)
    last = shared_at(tmp_path, end)
    held_out([2.5])  # it is judged once, and no step is trained
    meta = train(seven, tmp_path, patience=patience)
    assert all(torch.equal(t, last[name]) for name, t in meta.dynamics.state_dict().items())
    assert read_lines(tmp_path / "progress.jsonl")[-1]["step"] == end
    held_out([])
    train(seven, tmp_path, patience=patience)


# ---- torchrun --------------------------------------------------------------------------------------------------------------


def torchrun(workers, *arguments):
    """As `dynamo-dist embed --help` says it."""
    return [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(workers), "-m", "dynamo_dist.cli", *arguments]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_help_has_the_form_for_torchrun():
    assert "torchrun --nproc-per-node 2 -m dynamo_dist.cli embed " in command.parser()._subparsers._group_actions[0].choices[
        "embed"
    ].format_help()


def test_what_torchrun_starts_again_goes_on(seven, tmp_path, monkeypatch):
    """`torchrun --max-restarts` repeats the command as it was given: with --overwrite, or without --resume."""
    arguments = embed(seven.path, tmp_path, "--workers", 0)
    assert main(arguments) == 0
    before = (tmp_path / "progress.jsonl").read_text()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    for more in ([], ["--overwrite"]):
        assert main([*arguments, *more]) == 0
        assert (tmp_path / "progress.jsonl").read_text() == before


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "steps"), [(2, 20), (3, 1)])
def test_torchrun_trains_what_one_process_trains(seven, tmp_path, workers, steps):
    # Without clipping, the first moment of Adam after one step is a tenth of the gradient.
    changed = {"steps": steps, "clip": 1e9}
    done = subprocess.run(
        torchrun(workers, *embed(seven.path, tmp_path / "many", "--precision", "float64", "--json", **changed)),
        env=ENVIRONMENT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(tmp_path / "many" / "result.json") and len(lines) == 2
    assert json.loads(lines[1])["networks"] == 7
    assert len(list(checkpoint.newest_verified(tmp_path / "many").glob("networks-*"))) == workers
    train_meta_model(
        seven, tmp_path / "one", config=dataclasses.replace(CONFIG, **changed), precision="float64", activations="recompute"
    )
    one, many = tensors_of(tmp_path / "one"), tensors_of(tmp_path / "many")
    assert one.keys() == many.keys()
    for name, tensor in one.items():
        # theta starts at zero, so after one step only moments can be compared relatively; every gradient is one of them.
        if name.startswith("mean.") if steps == 1 else not name.startswith(("mean.", "square.")):
            assert (many[name] - tensor).norm() <= (1e-13 if steps == 1 else 1e-9) * tensor.norm(), name


def children(pid):
    return [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


@pytest.mark.slow
def test_a_worker_killed_under_torchrun_ends_the_job_and_it_resumes(seven, tmp_path, capsys):
    out = tmp_path / "meta"
    arguments = embed(seven.path, out, steps=600, checkpoint_every=20)
    with subprocess.Popen(torchrun(2, *arguments), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        while not checkpoint.committed_steps(out) and job.poll() is None:
            time.sleep(0.02)
        os.kill(children(job.pid)[-1], signal.SIGKILL)
        output, errors = job.communicate(timeout=60)
    assert job.returncode != 0 and output == "" and "SIGKILL" in errors
    kept = checkpoint.read_state(checkpoint.newest_verified(out))
    before = [line for line in read_lines(out / "progress.jsonl") if line["step"] <= kept["step"]]
    assert 20 <= kept["step"] < 600
    again = subprocess.run(torchrun(2, *arguments), env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert again.returncode != 0 and again.stderr.count("already holds a run of embed: continue it with --resume") == 1
    resumed = subprocess.run(torchrun(2, *arguments, "--resume"), env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines() == [str(out / "result.json")]
    lines = read_lines(out / "progress.jsonl")
    assert lines[: len(before)] == before  # not trained again
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)) and steps[-1] == 600
    assert pq.read_table(out / "metrics.parquet")["step"].to_pylist() == steps
    assert MetaModel.open(out).network_ids == Population(seven.path).network_ids
