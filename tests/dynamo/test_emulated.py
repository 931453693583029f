"""The network at one theta as a plain module: against the meta-model, saved, damaged and exported."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dynamo_dist import InputError, MetaModel, MetaModelConfig, Population
from dynamo_dist.data import Dataset, Examples, Output
from dynamo_dist.data.attractors import ClassIntegrationTask, ContextTask, FlipFlopTask
from dynamo_dist.data.tasks import make
from dynamo_dist.metamodel import folder
from dynamo_dist.metamodel.emulated import EmulatedConvolutional, EmulatedRecurrent, load_network
from dynamo_dist.metamodel.shard import Alone
from dynamo_dist.metamodel.training import TrainingJob, train_shard
from dynamo_dist.population.groups import Group, specs_of
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import LocalRuntime

CONFIG = MetaModelConfig(dimensions=3, hidden=8, embedding=4, rank=3, steps=3, batch=6, checkpoint_every=3)
PARTS = {"base": 64, "meta": 40, "test": 20}
GRU, RESNET = {"family": "recurrent", "cell": "gru", "hidden": 5}, {"family": "convolutional", "kind": "resnet", "depth": 8, "width": 4}


def train(population, out, precision="float64", **fields):
    config = dataclasses.replace(CONFIG, **fields)
    folder.prepare(out, population, config)
    train_shard(TrainingJob(population=str(population.path), out=str(out), config=config, precision=precision), group=Alone("cpu"))
    return MetaModel.open(out)


def populate(path, data, *groups):
    store = Population.create(path, list(specs_of(groups, data)), data)
    train_remaining(store, LocalRuntime())
    return Population.open(path)


def group(name, architecture=GRU, **fields):
    return Group(name=name, architecture=architecture, networks=1, training={"batch": 32}, **fields)


def random_theta(seed=0):
    return np.random.default_rng(seed).normal(size=CONFIG.dimensions)


@pytest.fixture(scope="module")
def unlike(tmp_path_factory):
    """Real values in two and tokens in two sizes, one and several outputs, at every step and at the last."""
    data = {
        "one bit": make(FlipFlopTask(bits=1, steps=9, **PARTS)),
        "two bits": make(FlipFlopTask(bits=2, steps=7, **PARTS)),
        "context": make(ContextTask(steps=6, **PARTS)),
        "classes": make(ClassIntegrationTask(classes=3, shortest=4, longest=8, **PARTS)),
        "pairs": make(ClassIntegrationTask(classes=2, shortest=4, longest=8, **PARTS)),
    }
    return populate(tmp_path_factory.mktemp("unlike") / "population", data, *(group(name, data=name) for name in data))


def images(seed, channels=1, classes=4):
    """Random images, 6 x 5."""
    rng = np.random.default_rng(seed)

    def part(count):
        pixels = torch.from_numpy(rng.integers(256, size=(count, channels, 6, 5), dtype=np.uint8))
        return Examples(inputs=pixels, targets={"label": torch.from_numpy(rng.integers(classes, size=count))})

    return Dataset(base=part(64), meta=part(40), test=part(20), vocabulary=None, outputs={"label": Output(kind="classes", size=classes)})


@pytest.fixture(scope="module")
def image_population(tmp_path_factory):
    data = {"grey": images(0), "colour": images(1, channels=3, classes=6)}
    return populate(tmp_path_factory.mktemp("images") / "population", data, *(group(name, RESNET, data=name) for name in data))


@pytest.fixture(scope="module")
def token_meta(population, tmp_path_factory):
    return train(population, tmp_path_factory.mktemp("tokens"))


@pytest.fixture(scope="module")
def unlike_meta(unlike, tmp_path_factory):
    return train(unlike, tmp_path_factory.mktemp("unlike meta"), unlike_tasks="pad")


@pytest.fixture(scope="module")
def image_meta(image_population, tmp_path_factory):
    return train(image_population, tmp_path_factory.mktemp("image meta"), unlike_tasks="pad")


def inputs_of(meta, data, count=7):
    part = meta.population.datasets[data].test.select(torch.arange(count))
    return part.inputs.to(meta.dtype) if part.inputs.is_floating_point() else part.inputs, part.lengths_N


def network_of(meta, kind):
    """A network and its inputs, by what it reads."""
    ids = {spec.data: spec.id for spec in meta.population.specs}
    data = {"tokens": "data", "values": "two bits", "images": "colour"}[kind]
    return meta.network(random_theta(), like=ids[data]), inputs_of(meta, data)


@pytest.fixture(params=["tokens", "values", "images"])
def network_and_inputs(request):
    name = {"tokens": "token_meta", "values": "unlike_meta", "images": "image_meta"}[request.param]
    return network_of(request.getfixturevalue(name), request.param)


def run(network, inputs, lengths):
    """Everything that a network gives, in one list."""
    with torch.no_grad():
        states, outputs = network(inputs) if lengths is None else network(inputs, lengths)
    return [*states, outputs] if isinstance(states, list) else [states, outputs]


def same(ours, theirs):
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def close(ours, theirs, bound=1e-12):
    """Sums of a few dozen numbers of order one, over a few steps, in another order."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=0, atol=bound)


# ---- it is the meta-model at theta ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditioning", ["concat", "lowrank", "film"])
def test_a_recurrent_network_is_the_meta_model_at_theta(population, unlike, tmp_path, conditioning):
    metas = {
        "tokens": train(population, tmp_path / "tokens", conditioning=conditioning),
        "values": train(unlike, tmp_path / "values", conditioning=conditioning, unlike_tasks="pad"),
    }
    for meta, data, every_step in (
        (metas["tokens"], "data", False),
        (metas["values"], "classes", False),
        (metas["values"], "pairs", False),
        (metas["values"], "context", False),
        (metas["values"], "one bit", True),
        (metas["values"], "two bits", True),
    ):
        id = meta.population.ids(data=data)[0]
        inputs, lengths = inputs_of(meta, data)
        if inputs.is_floating_point():
            lengths = torch.arange(1, 1 + len(inputs)).clamp(max=inputs.shape[1])
        assert len(set(lengths.tolist())) > 1
        size = meta.population.datasets[data].outputs[meta.population.spec(id).target].size
        for theta in (random_theta(), meta.theta((id,))[0]):
            network = meta.network(theta, like=id)
            assert isinstance(network, EmulatedRecurrent)
            states, outputs = meta.emulate(theta, inputs, lengths, data=data, every_step=every_step)
            close(run(network, inputs, lengths), [states, outputs[..., :size]])
            if not every_step:
                _, last = meta.emulate(theta, inputs, data=data)
                close(run(network, inputs, None)[1:], [last[..., :size]])


@pytest.mark.parametrize("conditioning", ["concat", "film"])
def test_a_convolutional_network_is_the_meta_model_at_theta(image_population, tmp_path, conditioning):
    meta = train(image_population, tmp_path, conditioning=conditioning, unlike_tasks="pad", blocks=2)
    for data, channels, classes in (("grey", 1, 4), ("colour", 3, 6)):
        network = meta.network(random_theta(), like=meta.population.ids(data=data)[0])
        assert isinstance(network, EmulatedConvolutional) and network.dynamics.w_stem.shape[1] == channels
        inputs, _ = inputs_of(meta, data)
        stages, outputs = meta.emulate(random_theta(), inputs, data=data)
        close(run(network, inputs, None), [*stages, outputs[:, :classes]])
        expected, answers = meta.dynamics.reference(
            torch.from_numpy(random_theta()), torch.nn.functional.pad(inputs, (0, 0, 0, 0, 0, 3 - channels))
        )
        close(run(network, inputs, None), [*expected, answers[:, :classes]])


def test_where_all_networks_are_alike_none_need_be_named(token_meta):
    """Labels of two kinds, but of one form."""
    theta = random_theta()
    inputs, lengths = inputs_of(token_meta, "data")
    named = [run(token_meta.network(theta, like=id), inputs, lengths) for id in token_meta.network_ids]
    assert all(same(run(token_meta.network(theta), inputs, lengths), own) for own in named)


@pytest.mark.parametrize("kind", ["unlike_meta", "image_meta"])
def test_where_they_are_not_the_refusal_names_one(request, kind):
    meta = request.getfixturevalue(kind)
    with pytest.raises(InputError, match=r"unlike inputs or outputs: say like=ID, for example like='(.*)'$") as refused:
        meta.network(random_theta())
    id = re.search(r"like='(.*)'$", str(refused.value))[1]
    assert id in meta.network_ids
    meta.network(random_theta(), like=id)


def test_what_does_not_fit_is_refused(token_meta):
    for theta in (np.zeros(2), np.zeros((1, 3)), torch.zeros(4), 0.0):
        with pytest.raises(InputError, match=re.escape(f"theta has shape {tuple(np.shape(theta))}: expected (3,)")):
            token_meta.network(theta)
    with pytest.raises(InputError, match="no network 'nobody'"):
        token_meta.network(random_theta(), like="nobody")


def test_it_is_a_copy_that_can_be_trained(network_and_inputs, token_meta, unlike_meta, image_meta):
    metas = (token_meta, unlike_meta, image_meta)
    before = [{name: t.clone() for name, t in meta.dynamics.state_dict().items()} for meta in metas]
    network, (inputs, _) = network_and_inputs
    assert all(p.requires_grad and p.is_leaf for p in network.parameters())
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        network(inputs)[1].square().mean().backward()
        losses.append(network(inputs)[1].square().mean().item())
        optimiser.step()
    assert losses[2] < losses[0]
    for meta, tensors in zip(metas, before, strict=True):
        assert all(torch.equal(t, tensors[name]) for name, t in meta.dynamics.state_dict().items())


def test_torchs_own_random_numbers_are_left_alone(network_and_inputs, token_meta, image_meta, tmp_path):
    network, _ = network_and_inputs
    network.save(tmp_path)
    state = torch.get_rng_state()
    token_meta.network(random_theta())
    image_meta.network(random_theta(), like=image_meta.network_ids[0])
    load_network(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_steps_one_by_one_are_the_whole(token_meta, unlike_meta):
    for meta, kind in ((token_meta, "tokens"), (unlike_meta, "values")):
        network, (inputs, _) = network_of(meta, kind)
        step, h = network.step(), network.initial_state.expand(len(inputs), -1)
        states, _ = network(inputs)
        for t in range(inputs.shape[1]):
            h, outputs = step(inputs[:, t], h)
            assert torch.allclose(h, states[:, t], rtol=0, atol=1e-12)
            assert torch.allclose(outputs, network.readout(states[:, t]), rtol=0, atol=1e-12)


# ---- saved ---------------------------------------------------------------------------------------------------------------------


def test_a_saved_network_is_the_same_bit_for_bit(network_and_inputs, tmp_path):
    network, (inputs, lengths) = network_and_inputs
    network.save(tmp_path / "new" / "folder")
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == ["network.json", "network.safetensors"]
    again = load_network(str(tmp_path / "new" / "folder"))
    assert type(again) is type(network) and again.sizes() == network.sizes()
    assert again.state_dict().keys() == network.state_dict().keys()
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in network.state_dict().items())
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in network.parameters()]
    assert same(run(again, inputs, lengths), run(network, inputs, lengths))


def test_single_precision_stays_single(population, tmp_path):
    network = train(population, tmp_path / "meta", precision="float32").network(random_theta())
    network.save(tmp_path / "network")
    assert {t.dtype for t in load_network(tmp_path / "network").state_dict().values()} == {torch.float32}


def test_saving_over_another_network_replaces_it(token_meta, tmp_path):
    for seed in (1, 2):
        token_meta.network(random_theta(seed)).save(tmp_path)
    inputs, lengths = inputs_of(token_meta, "data")
    assert same(run(load_network(tmp_path), inputs, lengths), run(token_meta.network(random_theta(2)), inputs, lengths))


def edit(folder, without=None, **fields):
    """Change `network.json`."""
    about = json.loads((folder / "network.json").read_text()) | fields
    (folder / "network.json").write_text(json.dumps({name: value for name, value in about.items() if name != without}))


def retell(folder, change):
    """Change the tensors as one who writes such files would: with the right hash."""
    from dynamo_dist.commit import sha256

    tensors = load_file(folder / "network.safetensors")
    change(tensors)
    save_file(tensors, folder / "network.safetensors")
    edit(folder, sha256=sha256(folder / "network.safetensors"))


def flip(file, position):
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "no json": (lambda f: (f / "network.json").unlink(), r"holds no network \(no network.json there\)"),
    "no tensors": (lambda f: (f / "network.safetensors").unlink(), r"holds no network \(no network.safetensors there\)"),
    "half a json": (lambda f: (f / "network.json").write_text('{"kind": "recur'), r"network.json is damaged"),
    "bytes for json": (lambda f: (f / "network.json").write_bytes(b"\x80\x04\x95"), r"network.json is damaged"),
    "a list for json": (lambda f: (f / "network.json").write_text("[1, 2]"), r"network.json is damaged"),
    "unknown kind": (lambda f: edit(f, kind="quantum"), r"kind 'quantum': expected one of recurrent, convolutional"),
    "kind of no name": (lambda f: edit(f, kind=["recurrent"]), r"kind \['recurrent'\]: expected one of"),
    "no kind": (lambda f: edit(f, without="kind"), r"kind None: expected one of"),
    "one bit": (lambda f: flip(f / "network.safetensors", -1), r"network.safetensors is not the file that network.json"),
    "half a file": (
        lambda f: (f / "network.safetensors").write_bytes((f / "network.safetensors").read_bytes()[:-9]),
        r"network.safetensors is not the file that network.json",
    ),
    "a size too many": (lambda f: edit(f, colour=3), r"does not hold a \w+ network \(.*colour"),
    "a size too few": (lambda f: edit(f, without="outputs"), r"does not hold a \w+ network \(.*outputs"),
    "a size of no number": (lambda f: edit(f, hidden="many"), r"does not hold a \w+ network"),
    "fewer than no units": (lambda f: edit(f, hidden=-1), r"does not hold a \w+ network"),
    "another size": (lambda f: edit(f, outputs=11), r"tensor '.*' has shape \(.*\), and network.json asks for \(.*11"),
    "a tensor too few": (
        lambda f: retell(f, lambda tensors: tensors.pop(sorted(tensors)[0])),
        r"tensor '.*' has shape None, and network.json asks for \(",
    ),
    "a tensor too many": (
        lambda f: retell(f, lambda tensors: tensors.update(more=torch.zeros(2))),
        r"tensor 'more' has shape \(2,\), and network.json asks for None",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_not_saved_is_refused_in_one_sentence(network_and_inputs, tmp_path, damage):
    network, _ = network_and_inputs
    network.save(tmp_path)
    change, message = DAMAGES[damage]
    change(tmp_path)
    with pytest.raises(InputError, match=message) as refused:
        load_network(tmp_path)
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_of_another_format_is_refused(token_meta, tmp_path):
    from dynamo_dist.commit import sha256

    token_meta.network(random_theta()).save(tmp_path)
    file = tmp_path / "network.safetensors"
    torch.save({"a": torch.zeros(2)}, file)  # a pickle: nothing here would read it
    edit(tmp_path, sha256=sha256(file))
    with pytest.raises(InputError, match="does not hold a recurrent network"):
        load_network(tmp_path)


# ---- exported ------------------------------------------------------------------------------------------------------------------


def exported(module, arguments, tmp_path):
    """The program that torch.export makes of a module, written to a file and read again."""
    torch.export.save(torch.export.export(module, arguments), tmp_path / "program.pt2")
    return torch.export.load(tmp_path / "program.pt2").module()


def test_a_whole_network_exports(network_and_inputs, tmp_path):
    network, (inputs, lengths) = network_and_inputs
    for arguments in ((inputs,),) if lengths is None else ((inputs,), (inputs, lengths)):
        program = exported(network, arguments, tmp_path)
        other = tuple(argument.flip(0) for argument in arguments)  # other numbers than it was traced with
        given = run(program, *other) if len(other) == 2 else run(program, *other, None)
        close(given, run(network, *other) if len(other) == 2 else run(network, *other, None))


def test_one_step_exports(token_meta, unlike_meta, tmp_path):
    for meta, kind in ((token_meta, "tokens"), (unlike_meta, "values")):
        network, (inputs, _) = network_of(meta, kind)
        step, h = network.step(), network.initial_state.detach().expand(len(inputs), -1).contiguous()
        program = exported(step, (inputs[:, 0], h), tmp_path)
        for t in range(inputs.shape[1]):
            ours, expected = program(inputs[:, t], h), step(inputs[:, t], h)
            close([part.detach() for part in ours], [part.detach() for part in expected])
            h = ours[0].detach()
