"""Networks from elsewhere: what the user's own modules give is what the population's networks give."""

import dataclasses
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from own_networks import Attention, Convolutions, Encoder, EveryStep, LastStep, Noisy, Outer, Packed
from PIL import Image
from safetensors.torch import save_model
from torch import nn

from dynamo_dist import InputError, Population
from dynamo_dist.cli import main
from dynamo_dist.data import Output
from dynamo_dist.data.attractors import FlipFlopTask, make_flip_flop
from dynamo_dist.data.folder import open_folder
from dynamo_dist.data.images import DigitsTask, make_digits
from dynamo_dist.networks import Imported, Recurrent, SequenceNetwork
from dynamo_dist.networks.imported import build
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import LocalRuntime


@pytest.fixture(scope="module")
def flip_flop():
    return make_flip_flop(FlipFlopTask(base=8, meta=8, test=20, steps=12))


@pytest.fixture(scope="module")
def digits():
    return make_digits(DigitsTask())


def seeded(kind, *arguments, seed=0, **options):
    torch.manual_seed(seed)
    return kind(*arguments, **options)


def used(module, *, images):
    """With running statistics that are not those it starts with."""
    module.train()
    with torch.no_grad():
        module(images)
    return module


def stacked(population):
    """Trajectory and outputs of every network on the test part, by id."""
    test = population.data.test.select(torch.arange(len(population.data.test)))
    found = {}
    for stack in population.stacks():
        trajectory, outputs = stack.networks(test.inputs[None], None if test.lengths_N is None else test.lengths_N[None])
        for m, id in enumerate(stack.ids):
            own = trajectory[:, m] if isinstance(trajectory, torch.Tensor) else [layer[m] for layer in trajectory]
            found[id] = own, outputs[m]
    return found


def test_text_classifiers_become_ours_and_answer_as_they_did(valence, tmp_path):
    words = valence.vocabulary + 3  # it knows more words than the data hold
    own = {"packed": seeded(Packed, words), "wide": seeded(Packed, words, 9, seed=1), "last": seeded(LastStep, words)}
    own["ours"] = SequenceNetwork(Recurrent(cell="ugrnn", hidden=4, features=3, vocabulary=words, outputs=2))
    population = Population.from_modules(own, data=valence, target="leaky", out=tmp_path / "p", groups={"last": "mine"})
    test = valence.test
    found = stacked(population)
    for id, module in own.items():
        assert module.training  # the user's module is left as it was
        with torch.no_grad():
            result = module.eval()(test.inputs, test.lengths_N)
            _, ours = population.network(id)(test.inputs, test.lengths_N)
        truth = result if id == "last" else result[1] if id == "ours" else result[0]
        assert isinstance(population.network(id), SequenceNetwork)
        assert torch.allclose(found[id][1], truth, atol=1e-5) and torch.allclose(ours, truth, atol=1e-5)
        right = (truth.argmax(-1) == test.targets["leaky"]).double().mean()
        assert population.table()["accuracy"][population.specs.row(id)].as_py() == pytest.approx(right)
    table = population.table()
    assert table["architecture"].to_pylist() == ["gru-6", "gru-9", "lstm-7", "ugrnn-4"]
    assert table["group"].to_pylist() == table["computation"].to_pylist() == ["gru-6", "gru-9", "mine", "ugrnn-4"]
    assert table["loss"].to_pylist() == [None] * 4 and table["steps"].to_pylist() == [0] * 4 and table["failed_at"].to_pylist() == [-1] * 4


def test_chaotic_networks_are_recognised(tmp_path):
    long = make_flip_flop(FlipFlopTask(base=8, meta=8, test=20, steps=200))
    network = seeded(EveryStep, hidden=100)
    with torch.no_grad():
        network.layer.weight_hh_l0.normal_(std=2.0 / 100**0.5)  # twice past the onset of chaos
    population = Population.from_modules([network], data=long, out=tmp_path / "p")
    assert population.table()["architecture"].to_pylist() == ["rnn-100"]


@pytest.mark.parametrize("batch_first", [False, True])
def test_networks_that_answer_at_every_step(flip_flop, tmp_path, batch_first):
    kinds = {"rnn": (nn.RNN, {}), "relu": (nn.RNN, {"nonlinearity": "relu"}), "gru": (nn.GRU, {}), "lstm": (nn.LSTM, {})}
    own = {name: seeded(EveryStep, kind, batch_first, **options) for name, (kind, options) in kinds.items()}
    own |= {f"{name} 2": seeded(EveryStep, kind, batch_first, seed=1, **options) for name, (kind, options) in kinds.items()}
    population = Population.from_modules(own, data=flip_flop, out=tmp_path / "p")
    assert [len(stack.ids) for stack in population.stacks()] == [2, 2, 2, 2]
    inputs = flip_flop.test.inputs if batch_first else flip_flop.test.inputs.transpose(0, 1)
    for id, (trajectory, outputs) in stacked(population).items():
        states, _ = own[id].layer(inputs)
        answers, _ = own[id](inputs)
        assert torch.allclose(outputs, answers if batch_first else answers.transpose(0, 1), atol=1e-5)
        assert torch.allclose(trajectory[..., :5], states.transpose(0, 1) if batch_first else states, atol=1e-5)
    assert set(population.table()["architecture"].to_pylist()) == {"rnn-5", "rnn-relu-5", "gru-5", "lstm-5"}
    target = flip_flop.test.targets["state"]
    answers, _ = own["gru"](inputs)
    answers, known = answers.detach() if batch_first else answers.detach().transpose(0, 1), ~target.isnan()
    total = sum(float((column - column.mean()).square().sum()) for column in (target[..., c][known[..., c]] for c in range(3)))
    expected = 1 - float((answers[known] - target[known]).square().sum()) / total
    assert population.table()["r2"][population.specs.row("gru")].as_py() == pytest.approx(expected, rel=1e-5)


def test_any_class_keeps_its_outputs_and_its_layers_bit_for_bit(digits, tmp_path):
    test = digits.test
    own = {f"cnn {seed}": used(seeded(Convolutions, seed=seed), images=test.inputs) for seed in range(2)}
    own["wide"] = used(seeded(Convolutions, 6, kernel=[3, 3]), images=test.inputs)
    population = Population.from_modules(
        own, data=digits, out=tmp_path / "p", hidden=["stage1", "stage2.1"], arguments={"wide": {"width": 6, "kernel": (3, 3)}}
    )
    found = stacked(population)
    for id, module in own.items():
        module.eval()
        with torch.no_grad():
            stage1 = module.stage1(test.inputs)
            answers, stage2 = module(test.inputs), module.stage2[:2](stage1)
            again = population.network(id)
            assert type(again) is Convolutions and torch.equal(again(test.inputs), answers)
        (first, second), outputs = found[id]
        assert torch.equal(outputs, answers) and torch.equal(first, stage1) and torch.equal(second, stage2)
    # In other precision whole numbers (batches counted) stay whole.
    (stack, _) = population.stacks()
    double = stack.networks.to(torch.float64)
    assert double.tensors["stage1.1.num_batches_tracked"].tolist() == [1, 1] and double.dtype == torch.float64
    _, (outputs, _) = double(test.inputs.double()[None], None)
    assert torch.allclose(outputs.float(), found["cnn 0"][1], atol=1e-5)
    assert not double.tensors["stage1.1.num_batches_tracked"].is_floating_point()


def test_sequences_with_one_hidden_layer_have_one_trajectory(valence, flip_flop, tmp_path):
    deep = seeded(Packed, valence.vocabulary, 4, layers=2, bidirectional=True)
    attention = seeded(Attention, 6)
    gru = seeded(EveryStep, nn.GRU)
    texts = Population.from_modules(
        [deep], data=valence, target="leaky", out=tmp_path / "texts", hidden=["rnn"],
        arguments=[{"words": valence.vocabulary, "hidden": 4, "layers": 2, "bidirectional": True}],
    )  # fmt: skip
    test = valence.test
    trajectory, outputs = stacked(texts)["#0"]
    deep.eval()
    with torch.no_grad():
        assert torch.equal(outputs, deep(test.inputs, test.lengths_N)[0])
        one, time = test.inputs[:1], int(test.lengths_N[0])
        states, _ = deep.rnn(deep.emb(one[:, :time]))
    assert trajectory.shape == (int(test.lengths_N.max()), len(test), 8)
    assert torch.allclose(trajectory[:time, 0], states[0], atol=1e-6) and not trajectory[time:, 0].any()
    # Kinds in one population: each architecture is a stack of its own.
    mixed = Population.from_modules(
        {"a": attention, "b": gru}, data=flip_flop, out=tmp_path / "mixed", hidden={"a": ["again"]}, arguments={"a": {"width": 6}}
    )
    assert [type(spec.architecture) for spec in mixed.specs] == [Imported, Recurrent]
    trajectory, outputs = stacked(mixed)["a"]
    assert torch.equal(outputs, attention(flip_flop.test.inputs))
    assert torch.equal(trajectory, attention.again(flip_flop.test.inputs).transpose(0, 1))


def test_networks_that_cannot_be_kept_are_refused_and_nothing_is_written(valence, digits, flip_flop, tmp_path):
    class Local(Convolutions):
        pass

    class IgnoresLengths(LastStep):
        def forward(self, tokens):
            return super().forward(tokens)

    def refused(modules, data=digits, hidden=("stage1",), **given):
        with pytest.raises(InputError) as error:
            Population.from_modules(modules, data=data, hidden=hidden, out=tmp_path / "p", **given)
        assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []
        return str(error.value)

    cnn = seeded(Convolutions)
    others = dataclasses.replace(digits, outputs={"label": Output(kind="classes", size=12)})
    assert "has no layer 'stage3'; its layers are stage1, stage1.0" in refused([cnn], hidden="stage3")
    assert "'unused' of Convolutions is not called" in refused([cnn], hidden=["unused"])
    assert "say by `hidden` which of its layers are the hidden trajectory: stage1, stage1.0," in refused([cnn], hidden=None)
    assert "Local: move it to the top level of a file" in refused([Local()]) and "Outer.Inner: move it" in refused([Outer.Inner()])
    assert "fc.weight: the network has shape (10, 6), and one made with the arguments {} has (10, 8)" in refused([Convolutions(3)])
    assert 'cannot be made with the arguments {"depth": 2}' in refused([cnn], arguments=[{"depth": 2}])
    assert "are not JSON" in refused([cnn], arguments=[{"width": torch.ones(1)}])
    assert "it must not be random" in refused([Noisy()])
    assert "network 'b': Convolutions cannot be run on the data (RuntimeError" in refused({"b": cnn}, data=flip_flop)
    assert "'layer' of EveryStep gives (12, 16, 5): expected a tensor with the batch of 16 first" in refused(
        [EveryStep(num_layers=2)], data=flip_flop, hidden=["layer"]
    )
    assert "Convolutions returns (16, 10): expected outputs of shape (16, 12)" in refused([cnn], data=others)
    with torch.no_grad():
        broken = Convolutions()
        broken.fc.bias.fill_(torch.nan)
    assert "not all finite" in refused([broken])
    # Of texts.
    assert "its embedding has 4 tokens, and the data have" in refused([Packed(4)], data=valence, target="leaky")
    assert "say by `target`" in refused([Packed(99)], data=valence)
    assert "target='bias' is not in the data set" in refused([Packed(99)], data=valence, target="bias")
    reads_padding = "does not give the outputs of one recurrent layer with a linear readout at the last valid step"
    assert reads_padding in refused([IgnoresLengths(99)], data=valence, target="leaky", hidden=None)
    assert reads_padding in refused([seeded(Packed, 99, layers=2)], data=valence, target="leaky", hidden=None)
    assert reads_padding in refused([seeded(Packed, 99, bidirectional=True)], data=valence, target="leaky", hidden=None)
    # Of the call.
    assert "Tensor is not a torch.nn.Module" in refused([torch.ones(1)])
    assert "there are no modules" in refused([])
    assert "one Convolutions is no population" in refused(cnn)
    assert "cannot be copied (ValueError" in refused([nn.Sequential(nn.Flatten(), nn.LazyLinear(10))])
    assert "tensor 1.bias: the network has shape (10,), and one made with the arguments {} has None" in refused(
        [nn.Sequential(nn.Flatten(), nn.Linear(64, 10))], hidden=["1"]
    )
    assert "ids are strings" in refused({1: cnn})
    assert "groups has 2 entries for 1 networks" in refused([cnn], groups=["a", "b"])
    assert "groups names 'x', and there is no such network: they are #0" in refused([cnn], groups={"x": "y"})
    assert "is torch.float64, and that of '#0', which is alike, is torch.float32" in refused([cnn, Convolutions().double()])
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(InputError, match="is not an empty folder"):
        Population.from_modules([cnn], data=digits, hidden=["stage1"], out=tmp_path)


def test_a_name_in_a_file_can_only_call_a_module_class():
    for name in ("own_networks:shout", "own_networks:torch", "os:system", "builtins:eval", "own_networks:Outer"):
        with pytest.raises(InputError, match=r"is not a subclass of torch.nn.Module"):
            build(Imported(module=name, arguments="{}", hidden=("x",), outputs=2))
    with pytest.raises(InputError, match=r"no_such_package cannot be imported.*PYTHONPATH"):
        build(Imported(module="no_such_package:Class", arguments="{}", hidden=("x",), outputs=2))


def test_making_a_network_leaves_the_random_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build(Imported(module="own_networks:Convolutions", arguments="{}", hidden=("stage1",), outputs=10))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_class_that_has_changed_is_refused(digits, tmp_path, monkeypatch):
    population = Population.from_modules([Convolutions()], data=digits, hidden=["stage1"], out=tmp_path / "p")

    def changed(self, width=5, kernel=(3, 3), original=Convolutions.__init__):
        original(self, width, kernel)

    monkeypatch.setattr(Convolutions, "__init__", changed)
    with pytest.raises(InputError, match=r"has shape \(10, 8\), and one made with the arguments \{\} has \(10, 10\)"):
        population.network("#0")


def test_damaged_imported_networks_are_not_trained(digits, tmp_path):
    population = Population.from_modules([Convolutions()], data=digits, hidden=["stage1"], out=tmp_path / "p")
    train_remaining(population, LocalRuntime())  # nothing to do
    next(population.path.glob("chunks/*/weights.safetensors")).unlink()
    with pytest.raises(InputError, match="import them again"):
        train_remaining(population, LocalRuntime())


def test_whoever_has_no_use_for_our_cells_may_bring_any_module(flip_flop, tmp_path):
    """Layers with their own ideas of being called: fused attention, and weights that are made of others."""
    torch.manual_seed(0)
    layer = {"d_model": 4, "nhead": 2, "dim_feedforward": 8, "batch_first": True}
    network = Encoder(**layer)
    population = Population.from_modules(
        [network], data=flip_flop, out=tmp_path / "p", hidden=["encoder.linear1", "encoder"], arguments=[layer]
    )
    (inner, outer), outputs = stacked(population)["#0"]
    network.eval()
    with torch.no_grad():
        x = network.inward(flip_flop.test.inputs)
        assert torch.allclose(outer, network.encoder(x), atol=1e-5) and inner.shape == (20, 12, 8)
        assert torch.allclose(outputs, network(flip_flop.test.inputs), atol=1e-5)


# ---- the command -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def recordings(flip_flop, tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    for part, examples in (("", flip_flop.base), ("meta_", flip_flop.meta), ("test_", flip_flop.test)):
        np.save(folder / f"{part}inputs.npy", examples.inputs.numpy())
        np.save(folder / f"{part}state.npy", examples.targets["state"].numpy())
    return folder


GRU = {"family": "recurrent", "cell": "gru", "hidden": 5, "features": 3, "outputs": 3, "every_step": True}


def write(folder, name, module, **about):
    folder.mkdir(exist_ok=True)
    save_model(module, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps(about))


def test_a_folder_of_networks_becomes_a_population(recordings, flip_flop, tmp_path, capsys):
    folder, out = tmp_path / "networks", tmp_path / "out"
    gru, ours = seeded(EveryStep, nn.GRU), SequenceNetwork(Recurrent(**{k: v for k, v in GRU.items() if k != "family"}))
    attention = seeded(Attention, 6)
    write(folder, "theirs", gru, architecture=GRU, names={"recurrent": "layer"}, group="mine", computation="memory")
    write(folder, "ours", ours, architecture=GRU)
    own = {"family": "imported", "module": "own_networks:Attention", "arguments": {"width": 6}, "hidden": ["again"]}
    write(folder, "other", attention, architecture=own, target="state")
    assert main(["import", str(folder), "--data", str(recordings), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}: 3 networks\n"
    population = Population.open(out)
    assert population.network_ids == ("other", "ours", "theirs")
    assert population.table()["group"].to_pylist() == ["Attention", "gru-5", "mine"]
    assert population.table()["computation"].to_pylist() == ["Attention", "gru-5", "memory"]
    found = stacked(population)
    inputs = flip_flop.test.inputs
    with torch.no_grad():
        assert torch.allclose(found["theirs"][1], gru(inputs.transpose(0, 1))[0].transpose(0, 1), atol=1e-5)
        assert torch.allclose(found["ours"][1], ours(inputs)[1], atol=1e-5)
        assert torch.equal(found["other"][1], attention(inputs))
    assert isinstance(population.network("other"), Attention)


def test_what_is_wrong_in_a_folder_is_one_sentence_and_nothing_is_written(recordings, tmp_path, capsys):
    folder, out = tmp_path / "networks", tmp_path / "out"

    def refused(data=recordings):
        assert main(["import", str(folder), "--data", str(data), "--out", str(out)]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and len(captured.err.splitlines()) == 1 and not out.exists()
        return captured.err

    gru = seeded(EveryStep, nn.GRU)
    names = {"recurrent": "layer"}
    assert "networks is not a folder" in refused()
    folder.mkdir()
    assert "holds no networks" in refused()
    write(folder, "a", gru, architecture=GRU)
    assert "a.safetensors: the tensor recurrent.weight_ih_l0 is missing; it holds layer.bias_hh_l0" in refused()
    write(folder, "a", gru, architecture={**GRU, "hidden": 6}, names=names)
    assert "the tensor layer.weight_ih_l0 has shape (15, 3): expected (18, 3)" in refused()
    write(folder, "a", gru, architecture={**GRU, "depth": 2}, names=names)
    assert "a.json: architecture recurrent: unknown field 'depth'" in refused()
    write(folder, "a", gru, architecture={**GRU, "family": "convolutional"}, names=names)
    assert "a.json: architecture convolutional: unknown field" in refused()
    write(folder, "a", gru, architecture=GRU, names=names, grop="x")
    assert "a.json: unknown field 'grop'; the fields are architecture, computation, group, names, target" in refused()
    write(folder, "a", gru, architecture=GRU, names={"recurrent": "x", "readout": "x"})
    assert "have the same name" in refused()
    (folder / "a.json").write_text('{"architecture": {}, "architecture": {}}')
    assert "a.json cannot be read as JSON: 'architecture' is there twice" in refused()
    (folder / "a.json").write_text("{")
    assert "a.json cannot be read as JSON" in refused()
    write(folder, "a", nn.ModuleDict({"all": gru, "readout": nn.Linear(5, 3)}), architecture=GRU, names={"recurrent": "all.layer"})
    assert "the tensor all.readout.bias is no part of the network that a.json describes" in refused()
    write(folder, "a", gru, architecture=GRU, names=names, target="memory")
    assert "network 'a': target='memory' is not in the data set, which has: state" in refused()
    own = {"family": "imported", "module": "own_networks:shout", "hidden": ["x"]}
    write(folder, "a", gru, architecture=own)
    assert "a.json: own_networks:shout is not a subclass of torch.nn.Module" in refused()
    write(folder, "a", gru, architecture=GRU, names=names)
    assert "nowhere does not exist" in refused(data=tmp_path / "nowhere")
    assert "networks holds no data of a known kind" in refused(data=folder)
    (folder / "a.safetensors").write_bytes(b"short")
    assert "a.safetensors is not a readable safetensors file" in refused()
    (folder / "b.json").write_text("{}")
    assert "b.safetensors does not exist" in refused()
    (folder / "c.pt").write_bytes(b"")
    assert (
        "c.pt is pickled, and pickles are never loaded: save the network by safetensors.torch.save_model(module, 'c.safetensors')"
        in refused()
    )


def test_the_kind_of_data_is_seen_from_the_folder(recordings, tmp_path):
    texts, images, parquet = tmp_path / "texts", tmp_path / "images", tmp_path / "parquet"
    for folder in (texts, images, parquet):
        folder.mkdir()
    encoded = io.BytesIO()
    Image.new("L", (4, 3)).save(encoded, "PNG")
    for part in ("train", "test"):
        (texts / f"{part}.tsv").write_text("text\tlabel\n" + "good\t1\nbad\t0\n" * 4)
        pq.write_table(pa.table({"image": [encoded.getvalue()] * 8, "label": [0, 1] * 4}), images / f"{part}.parquet")
    pq.write_table(pa.table({"inputs": [[1, 2, 1]] * 20, "side": [0, 1] * 10}), parquet / "train.parquet")
    kinds = {folder: open_folder(folder) for folder in (recordings, texts, images, parquet, parquet / "train.parquet")}
    assert [data.kind for data in kinds.values()] == ["values", "tokens", "images", "tokens", "tokens"]
    assert [set(data.outputs) for data in kinds.values()] == [{"state"}, {"label"}, {"label"}, {"side"}, {"side"}]
    (images / "train.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"train\.parquet is not a readable Parquet file"):
        open_folder(images)
