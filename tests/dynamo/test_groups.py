"""Populations from a file of groups and a folder of data: the user's way in without a recipe."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import dynamo_dist
from dynamo_dist import InputError, MetaModelConfig, Population
from dynamo_dist.cli import main
from dynamo_dist.population.groups import Group, read_groups, specs_of

GROUPS = """
[[group]]
name = "small lstm"
networks = 2
computation = "running mean"
architecture = {family = "recurrent", cell = "lstm", hidden = 4}
epochs = 2
batch = 8
fraction = 0.5

[[group]]
name = "relu"
networks = 1
architecture = {family = "recurrent", cell = "rnn-relu", hidden = 5}
epochs = 3
batch = 8
validation = 0.25
patience = 1
"""


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    inputs = np.random.default_rng(0).standard_normal((80, 6, 3)).astype(np.float32)
    np.save(folder / "inputs.npy", inputs)
    np.save(folder / "mean.npy", np.cumsum(inputs.mean(axis=2, keepdims=True), axis=1).astype(np.float32))
    return folder


def refused(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("dynamo-dist: ")
    return error


def test_groups_learn_from_recordings(recordings, tmp_path, capsys):
    (tmp_path / "groups.toml").write_text(GROUPS)
    command = ["train-population", str(tmp_path / "groups.toml"), "--data", str(recordings), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main(command) == 0
    population = Population.open(tmp_path / "out" / "population")
    assert population.network_ids == ("small lstm #0", "small lstm #1", "relu #0")
    first, _, relu = population.specs
    assert (first.architecture.features, first.architecture.outputs, first.architecture.every_step) == (3, 1, True)
    assert (first.samples, first.computation, relu.samples, relu.computation, relu.patience) == (16, "running mean", 32, "relu", 1)
    assert [spec.seed for spec in population.specs] == [0, 1, 2]
    table = population.table()
    assert table["accuracy"].null_count == 3 and all(value < 1 for value in table["r2"].to_pylist())
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    lstm = table["r2"].to_pylist()[:2]
    assert result["networks"] == 3 and result["failed"] == 0 and result["r2"]["small lstm"] == pytest.approx(np.mean(lstm))
    # A module of torch's, with the answers that were scored.
    data, module = population.data.test, population.network("small lstm #1")
    guess = module(data.inputs)[1].detach()
    truth = data.targets["mean"]
    assert 1 - float(((guess - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()) == pytest.approx(lstm[1], abs=1e-5)
    capsys.readouterr()
    assert "already holds a run of train-population" in refused(capsys, *command)
    assert main([*command, "--resume"]) == 0
    meta = dynamo_dist.train_meta_model(population, tmp_path / "meta", config=MetaModelConfig(dimensions=2, hidden=8, steps=300))
    assert meta.network_ids == population.network_ids
    _, outputs = meta.emulate(meta.embedding[1], data.inputs, data.lengths_N, every_step=True)
    # Nearer to what the network answers than its own mean is.
    assert outputs.shape == guess.shape and ((outputs - guess) ** 2).sum() < 0.5 * ((guess - guess.mean()) ** 2).sum()


def test_a_population_that_was_laid_down_is_trained(valence, tmp_path):
    group = Group(
        name="leaky", networks=3, target="leaky", architecture={"family": "recurrent", "cell": "ugrnn", "hidden": 3}, training={"batch": 50}
    )
    laid = Population.create(tmp_path / "p", specs_of([group], valence, seed=2), valence)
    assert [spec.seed for spec in laid.specs] == [2000, 2001, 2002]
    assert dynamo_dist.train_population(laid).table().num_rows == 3
    with pytest.raises(InputError, match="give a recipe and the folder `out`, or a population"):
        dynamo_dist.train_population(laid, tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("networks = 2", "networks = 0"), "group 'small lstm': networks=0: expected at least 1, each with its own seed"),
        (('cell = "lstm"', 'cell = "lstn"'), "group 'small lstm': Recurrent.cell='lstn': expected one of gru, lstm"),
        (("hidden = 4", "hidden = -4"), "group 'small lstm': Recurrent.hidden=-4: expected a positive whole number"),
        (("hidden = 4}", "hidden = 4, depth = 2}"), "architecture recurrent: unknown field 'depth'"),
        (('family = "recurrent", cell = "lstm"', 'cell = "lstm"'), "architecture family None: expected one of recurrent, convolutional"),
        (("fraction = 0.5", "fraction = 1.5"), "group 'small lstm': fraction=1.5"),
        (("epochs = 2", "epoch = 2"), "group 'small lstm': unknown field 'epoch'; expected one of augmentation, batch"),
        (('name = "relu"', 'name = "small lstm"'), "two groups have the name 'small lstm'"),
        (("networks = 1", ""), "group 'relu': the field 'networks' is missing"),
        (("batch = 8\nfraction", "batch = 64\nfraction"), "network small lstm #0: batch=64 is larger than its 16 samples"),
        (("[[group]]", "[[groups]]"), "expected tables [[group]] and nothing else"),
        (("networks = 2", "networks ="), "is not a readable TOML file"),
        (('name = "relu"', 'name = "relu"\ntarget = "median"'), "group 'relu': target='median' is not in the data set, which has: mean"),
        (('family = "recurrent", cell = "lstm", hidden = 4', 'family = "convolutional", kind = "resnet", depth = 8, width = 4'), "reads images"),
    ],
)
def test_wrong_groups_are_refused_before_anything_starts(recordings, tmp_path, capsys, change, message):
    (tmp_path / "groups.toml").write_text(GROUPS.replace(*change))
    error = refused(capsys, "train-population", tmp_path / "groups.toml", "--data", recordings, "--out", tmp_path / "out", "--workers", "0")
    assert message in error and not (tmp_path / "out").exists()


def test_a_share_that_lacks_a_class_is_refused(valence):
    """Class 1 has one example of 400: of networks that see a quarter of them most miss it, of those that see all none does."""
    rare = torch.zeros(400, dtype=torch.int64)
    rare[7] = 1
    data = dataclasses.replace(valence, base=dataclasses.replace(valence.base, targets={**valence.base.targets, "perfect": rare}))

    def specs(**fields):
        architecture = {"family": "recurrent", "cell": "gru", "hidden": 4}
        return list(specs_of([Group(name="few", networks=8, architecture=architecture, **{"target": "perfect", **fields})], data))

    assert len(specs(training={"epochs": 1})) == 8
    # The first 100 of the shuffle that a specification promises.
    missed = [number for number in range(8) if 7 not in np.random.default_rng([number, 1]).permutation(400)[:100]]
    with pytest.raises(InputError, match=f"network few #{missed[0]}: none of its 100 examples is of class 1, of which the labelled part has 1:"):
        specs(fraction=0.25, training={"epochs": 1})
    assert len(specs(fraction=0.25, training={"epochs": 1}, target="leaky")) == 8  # half of these are of either class


def test_a_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="is not a readable TOML file"):
        read_groups(tmp_path / "none.toml")
