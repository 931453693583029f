"""Training of a stack against a loop of torch modules; what neighbours may not do to each other; the plan."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from small_population import make_specs

from dynamo_dist import InputError
from dynamo_dist.data import Dataset, Examples, Output
from dynamo_dist.data.attractors import FlipFlopTask, make_flip_flop
from dynamo_dist.data.images import DigitsTask, make_digits
from dynamo_dist.networks import Convolutional, Recurrent, stack_class
from dynamo_dist.networks.architecture import from_dict
from dynamo_dist.population.memory import peak_bytes
from dynamo_dist.population.plan import Chunk, costs, make_plan
from dynamo_dist.population.reference import train_alone
from dynamo_dist.population.specs import NetworkSpec, Specs, check_specs, own_samples
from dynamo_dist.population.training import (
    StackedAdam,
    batch_order,
    clip_per_network,
    evaluate,
    measured_bytes,
    train_chunk,
)

CLASSES = Output(kind="classes", size=2)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_stacked_training_equals_a_loop_of_torch_modules(valence, cell):
    specs = [spec for spec in make_specs(valence, epochs=3) if spec.architecture.cell == cell]
    # Each with its own learning rate and clipping.
    specs = [dataclasses.replace(spec, learning_rate=1e-3 * (i + 1), clip=0.1 * (i + 1)) for i, spec in enumerate(specs)]
    trained = train_chunk(specs, valence.base, CLASSES, dtype=torch.float64)
    for m, spec in enumerate(specs):
        ours, theirs = trained.networks.network(m).state_dict(), train_alone(spec, valence.base, CLASSES, dtype=torch.float64).state_dict()
        for name in theirs:
            # 24 steps of Adam: rounding enters through g / (sqrt(v) + eps), relative to each entry's own gradient.
            assert (ours[name] - theirs[name]).norm() <= 1e-9 * theirs[name].norm().clamp(min=1.0), name


def spec_for(data, cell="gru", **fields):
    """One small network for a data set with a single target."""
    (target,) = data.outputs
    output = data.outputs[target]
    architecture = Recurrent(
        cell=cell, hidden=6, features=5 if data.kind == "tokens" else data.input_shape[0], vocabulary=data.vocabulary,
        outputs=output.size, every_step=output.every_step,
    )  # fmt: skip
    values = {"samples": 60, "batch": 20, "epochs": 4, "learning_rate": 1e-2, "seed": 0, **fields}
    return NetworkSpec(id=f"{cell} {values['seed']}", group="all", computation="all", architecture=architecture, target=target, **values)


@pytest.mark.parametrize("cell", ["lstm", "ugrnn", "rnn-relu"])
def test_values_at_every_step_are_learned_as_by_a_loop_of_torch_modules(cell):
    # Targets of flip-flops are NaN before the first pulse: nothing is asked there.
    data = make_flip_flop(FlipFlopTask(bits=2, steps=12, base=80, meta=10, test=50))
    (output,) = data.outputs.values()
    specs = [spec_for(data, cell, seed=seed, schedule="constant", weight_decay=0.1 * seed) for seed in range(3)]
    trained = train_chunk(specs, data.base, output, dtype=torch.float64)
    for m, spec in enumerate(specs):
        theirs = train_alone(spec, data.base, output, dtype=torch.float64)
        for name, parameter in theirs.state_dict().items():
            ours = trained.networks.network(m).state_dict()[name]
            assert (ours - parameter).norm() <= 1e-9 * parameter.norm().clamp(min=1.0), name
        # The recorded score is R^2 over the answers that are asked for.
        with torch.no_grad():
            _, guess = theirs(data.test.inputs.double())
        truth = data.test.targets[spec.target]
        known = ~truth.isnan()
        residual = [(guess[..., o] - truth[..., o])[known[..., o]].square().sum() for o in range(2)]
        spread = [(truth[..., o][known[..., o]] - truth[..., o][known[..., o]].mean()).square().sum() for o in range(2)]
        r2 = evaluate(specs, trained.networks, data.test, output)[m]
        assert r2 == pytest.approx(1 - float(sum(residual) / sum(spread)), abs=1e-6)


def test_classes_at_every_step_and_padding(valence):
    """A class at every step, of sequences of unequal length: the sign of the running sum."""
    running = torch.from_numpy(np.cumsum(np.array([0, -2, -1, 0, 1, 2])[valence.base.inputs.numpy()], axis=1))
    examples = Examples(inputs=valence.base.inputs, lengths_N=valence.base.lengths_N, targets={"sign": (running.sign() + 1).long()})
    examples.targets["sign"][0, :3] = -1  # not asked
    output = Output(kind="classes", size=3, every_step=True)
    data = Dataset(base=examples, meta=examples, test=examples, vocabulary=6, outputs={"sign": output})
    spec = spec_for(data)
    trained = train_chunk([spec], data.base, output, dtype=torch.float64)
    theirs = train_alone(spec, data.base, output, dtype=torch.float64)
    for name, parameter in theirs.state_dict().items():
        assert (trained.networks.network(0).state_dict()[name] - parameter).norm() <= 1e-9 * parameter.norm().clamp(min=1.0), name
    with torch.no_grad():
        _, guess = theirs(examples.inputs, examples.lengths_N)
    counts = (torch.arange(examples.inputs.shape[1]) < examples.lengths_N[:, None]) & (examples.targets["sign"] >= 0)
    right = (guess.argmax(-1) == examples.targets["sign"])[counts].double().mean()
    assert evaluate([spec], trained.networks, examples, output) == [pytest.approx(float(right))]
    batches = len(list(examples.batches(spec.architecture.intermediate(tuple(examples.inputs.shape[1:])))))
    signs = []
    evaluate([spec], trained.networks, examples, output, each=lambda: signs.append(1))
    assert len(signs) == batches > 0


@pytest.mark.parametrize(("kind", "depth"), [("cnn", 3), ("resnet", 8)])
def test_augmented_images_are_learned_as_by_a_loop_of_torch_modules(kind, depth):
    data = make_digits(DigitsTask())
    output = data.outputs["label"]
    architecture = Convolutional(kind=kind, depth=depth, width=4, channels=1, outputs=10)
    specs = [
        NetworkSpec(
            id=name, group=name, computation=name, architecture=architecture, target="label", seed=seed, samples=96, batch=16, epochs=2,
            learning_rate=1e-3, augmentation=name,
        )
        for seed, name in enumerate(("none", "crop_flip", "cutout", "mixup"))
    ]  # fmt: skip
    trained = train_chunk(specs, data.base, output, dtype=torch.float64)
    for m, spec in enumerate(specs):
        theirs = train_alone(spec, data.base, output, dtype=torch.float64).state_dict()
        ours = trained.networks.network(m).state_dict()
        for name in theirs:
            if "num_batches" not in name:
                # Twelve steps of Adam: where a gradient is rounding alone (weights before a normalisation), Adam makes steps of it.
                assert (ours[name] - theirs[name]).norm() <= 1e-6 * theirs[name].norm().clamp(min=1.0), (spec.id, name)
        with torch.no_grad():
            _, logits = trained.networks.network(m)(data.test.inputs.double())
        accuracy = evaluate(specs, trained.networks, data.test, output)[m]
        assert accuracy == pytest.approx(float((logits.argmax(-1) == data.test.targets["label"]).double().mean()))


def test_early_stopping_keeps_the_best_and_leaves_others_alone(valence):
    spec = dataclasses.replace(make_specs(valence, samples=200)[0], epochs=30, validation=0.25, learning_rate=3e-2, schedule="constant")
    patient = dataclasses.replace(spec, id="patient", patience=2)
    trained = train_chunk([patient, spec], valence.base, CLASSES)
    # The same, epoch by epoch: train for e epochs, and look at what is held out.
    held_out = valence.base.select(torch.from_numpy(own_samples(spec, 400)[1]))
    assert len(held_out) == 50
    losses, states = [], []
    for epochs in range(1, 12):
        one = train_chunk([dataclasses.replace(spec, epochs=epochs)] * 2, valence.base, CLASSES).networks.network(0)
        with torch.no_grad():
            _, logits = one(held_out.inputs, held_out.lengths_N)
        losses.append(float(torch.nn.functional.cross_entropy(logits, held_out.targets[spec.target])))
        states.append(one.state_dict())
        best = int(np.argmin(losses))
        if epochs - 1 - best == 2:
            break
    else:
        raise AssertionError("nothing stops: the test needs another learning rate")
    assert trained.steps == [epochs * spec.steps_per_epoch, spec.steps]
    for name, parameter in trained.networks.network(0).state_dict().items():
        assert torch.equal(parameter, states[best][name])
    alone = train_chunk([spec, spec], valence.base, CLASSES)
    for name, parameter in alone.networks.network(1).state_dict().items():
        assert torch.equal(trained.networks.network(1).state_dict()[name], parameter)


def test_the_recorded_curve_is_the_loss_along_training(valence):
    spec = make_specs(valence)[0]
    trained = train_chunk([spec], valence.base, CLASSES)
    assert len(trained.curve[0]) == 20 and trained.curve[0][0] > trained.curve[0][-1] == trained.loss[0]
    # One step: its loss is that of the fresh network.
    single = dataclasses.replace(spec, samples=32, epochs=1)
    part = valence.base.select(torch.from_numpy(batch_order(single, 400)[0]))
    fresh = stack_class(spec.architecture).initial(spec.architecture, [spec.seed]).network(0)
    with torch.no_grad():
        _, logits = fresh(part.inputs, part.lengths_N)
    loss = torch.nn.functional.cross_entropy(logits, part.targets[spec.target])
    assert train_chunk([single], valence.base, CLASSES).curve[0] == [pytest.approx(float(loss), rel=1e-5)]


def test_memory_of_one_more_network_is_what_its_tensors_take(valence):
    def held():
        kept = torch.zeros(1000, 1000)
        for _ in range(3):
            kept = kept + 1  # the old one is freed
        return kept.sum()

    assert peak_bytes(held) == 8_000_000  # two at a time
    small, large = (measured_bytes(dataclasses.replace(make_specs(valence)[0], batch=batch), valence) for batch in (16, 32))
    architecture = make_specs(valence)[0].architecture
    # At least states, gates and candidate parts of all steps, and the parameters four times (value, gradient, two moments).
    floor = 16 * 18 * architecture.hidden * 4 * 5
    assert small > floor and small < large < 2 * small


def test_a_poisoned_network_is_frozen_and_its_neighbours_do_not_notice(valence):
    specs = [spec for spec in make_specs(valence) if spec.architecture.cell == "gru"]
    sound = train_chunk(specs, valence.base, CLASSES)
    # A learning rate that overflows float32 within a few steps.
    poisoned = train_chunk([dataclasses.replace(specs[0], learning_rate=1e38), *specs[1:]], valence.base, CLASSES)
    assert sound.failed_at == [-1] * len(specs)
    assert poisoned.failed_at[0] >= 0 and poisoned.failed_at[1:] == [-1] * (len(specs) - 1)
    for name, p in poisoned.networks.parameters.items():
        assert torch.equal(p[1:], sound.networks.parameters[name][1:])


def test_a_network_does_not_depend_on_the_chunk_beyond_rounding(valence):
    specs = [spec for spec in make_specs(valence) if spec.architecture.cell == "gru"]
    together, alone = train_chunk(specs, valence.base, CLASSES, dtype=torch.float64), train_chunk(specs[2:3], valence.base, CLASSES, dtype=torch.float64)
    for name, p in alone.networks.parameters.items():
        assert torch.allclose(together.networks.parameters[name][2], p[0], rtol=1e-9, atol=1e-9)


def test_adam_with_a_rate_per_network_is_torchs_adam():
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(3, 4, 2, generator=generator), torch.randn(10, 3, 4, 2, generator=generator)
    rates = torch.tensor([1e-3, 1e-2, 1e-1], dtype=torch.float64)
    ours = start.clone().requires_grad_()
    optimiser = StackedAdam([ours])
    theirs = [row.clone().requires_grad_() for row in start]
    references = [torch.optim.Adam([p], lr=float(rate)) for p, rate in zip(theirs, rates, strict=True)]
    for g in gradients:
        ours.grad = g.clone()
        optimiser.step(rates)
        for p, row, reference in zip(theirs, g, references, strict=True):
            p.grad = row.clone()
            reference.step()
    assert torch.allclose(ours, torch.stack(theirs), rtol=1e-5, atol=1e-6)


def test_clipping_is_torchs_per_network():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.zeros(2, 3, requires_grad=True), torch.zeros(2, 4, 5, requires_grad=True)
    a.grad, b.grad = torch.randn(2, 3, generator=generator), torch.randn(2, 4, 5, generator=generator)
    expected = []
    for m in range(2):
        pair = [torch.zeros_like(p[m]).requires_grad_() for p in (a, b)]
        for single, p in zip(pair, (a, b), strict=True):
            single.grad = p.grad[m].clone()
        torch.nn.utils.clip_grad_norm_(pair, [0.5, 100.0][m])
        expected.append([p.grad for p in pair])
    assert clip_per_network([a, b], torch.tensor([0.5, 100.0])).all()
    for m in range(2):
        assert torch.allclose(a.grad[m], expected[m][0]) and torch.allclose(b.grad[m], expected[m][1])


def test_order_of_the_data_is_epochs_over_the_own_subset(valence):
    spec = make_specs(valence, samples=100, epochs=3)[0]
    order = batch_order(spec, 400).reshape(3, -1)
    assert order.shape == (3, 96)
    assert all(len(set(epoch)) == 96 for epoch in order)
    assert len(set(order.flatten())) <= 100
    other = batch_order(dataclasses.replace(spec, seed=99), 400)
    assert set(other.flatten()) != set(order.flatten())


def plan_of(specs, workers, **limits):
    """A plan in which every network takes a megabyte."""
    table = Specs.of(specs)
    return make_plan(table, costs(table, {"data": ()}), workers=workers, bytes_per_network=lambda spec: 10**6, **limits)


def test_plan_holds_every_network_once_and_stacks_only_what_fits(valence):
    specs = make_specs(valence, networks=5)
    for workers in (1, 2, 3, 50):
        plan = plan_of(specs, workers)
        assert sorted(plan.order) == list(range(len(specs)))
        members = [[specs[row] for row in plan.rows(chunk)] for chunk in plan.chunks()]
        assert all(len({spec.architecture for spec in chunk}) == 1 for chunk in members)
        assert len(members) >= min(workers, 2)
    # Five networks of 1 MB in chunks of at most 2 MB.
    small = list(plan_of(specs, 1, chunk_bytes=2 * 10**6).chunks())
    assert max(chunk.networks for chunk in small) == 2 and sum(chunk.networks for chunk in small) == len(specs)


def test_the_last_chunk_of_every_worker_is_cut_so_that_others_wait_less(valence):
    one = make_specs(valence, networks=1)[0]
    specs = [dataclasses.replace(one, id=f"network {number}") for number in range(80)]
    limits = {"chunk_bytes": 8 * 10**6}
    assert [chunk.networks for chunk in plan_of(specs, 0, **limits).chunks()] == [8] * 10  # nobody waits
    assert [chunk.networks for chunk in plan_of(specs, 3, **limits).chunks()] == [8] * 10  # a chunk is too much of a worker's work
    plan = plan_of(specs, 2, **limits)
    assert sorted(plan.order) == list(range(80))
    assert sorted(chunk.networks for chunk in plan.chunks()) == [2] * 8 + [8] * 8
    # What is longest comes first, so the parts come last; a chunk with less than a hundredth of a worker's work is left as it is.
    small = [dataclasses.replace(one, id=f"small {n}", architecture=dataclasses.replace(one.architecture, hidden=4)) for n in range(16)]
    sizes = [chunk.networks for chunk in plan_of(small + [dataclasses.replace(s, epochs=200) for s in specs], 2, **limits).chunks()]
    assert sizes == [8, 8] + [8] * 10


def test_networks_out_of_step_are_not_stacked(valence):
    specs = make_specs(valence, networks=2)[:4]
    specs[1] = dataclasses.replace(specs[1], samples=128)  # fewer steps per epoch
    specs[3] = dataclasses.replace(specs[3], learning_rate=0.5, clip=3.0, schedule="constant")  # its own affair
    sizes = sorted(chunk.networks for chunk in plan_of(specs, 1).chunks())
    assert sizes == [1, 3]


def test_what_remains_of_a_plan_is_what_was_not_done(valence):
    plan = plan_of(make_specs(valence, networks=4), 1)
    first, second = list(plan.chunks())
    assert plan.remaining([]) == [first, second]
    inside = Chunk(first=first.first + 2, networks=3)
    left = plan.remaining([inside, second])
    assert left == [Chunk(first=0, networks=2), Chunk(first=5, networks=first.networks - 5)]
    a, b = first.halves()
    assert plan.remaining([a]) == [b, second] and a.networks + b.networks == first.networks


def test_specs_survive_columns_and_json(valence):
    specs = make_specs(valence)
    table = Specs.of(spec for spec in specs)
    assert list(table) == specs and table[3] == specs[3] and table[-1] == specs[-1]
    assert list(table.take([4, 0])) == [specs[4], specs[0]] and list(table[1:3]) == specs[1:3]
    assert table == Specs.of(specs) and table != Specs.of(specs[::-1])
    fields = json.loads(specs[0].to_json())
    assert NetworkSpec(**{**fields, "architecture": from_dict(fields["architecture"])}) == specs[0]


def test_wrong_specs_are_refused_with_the_field(valence):
    specs = make_specs(valence)
    data = {"data": valence}
    for field, value, message in (
        ("batch", 300, "batch=300 is larger than its 256 samples"),
        ("learning_rate", -1.0, "learning_rate=-1"),
        ("schedule", "linear", "schedule='linear': expected one of cosine, constant"),
        ("augmentation", "blur", "augmentation='blur': expected one of none, crop_flip, cutout, mixup"),
        ("patience", 3, "patience=3 needs examples held out"),
        ("validation", 1.5, "validation=1.5"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(specs[0], **{field: value})
    for change, message in (
        ({"id": specs[1].id}, "two networks have the id 'perfect gru #1'"),
        ({"target": "leek"}, "perfect gru #0: target='leek' is not in the data set, which has: leaky, perfect"),
        ({"samples": 500}, "samples=500, but the labelled part has 400 examples"),
        ({"data": "english"}, "data='english' is not in the population, which has: data"),
        ({"augmentation": "cutout"}, "augmentation='cutout' is for images, and its data set holds tokens"),
        ({"architecture": dataclasses.replace(specs[0].architecture, vocabulary=99)}, "architecture.vocabulary=99, but its data set has 6"),
        ({"architecture": dataclasses.replace(specs[0].architecture, outputs=3)}, "architecture.outputs=3, but its data set has 2"),
        ({"architecture": Convolutional(kind="cnn", depth=3, width=4, channels=1, outputs=2)}, "reads images, and its data set holds tokens"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            check_specs(Specs.of([dataclasses.replace(specs[0], **change), *specs[1:]]), data)
    with pytest.raises(InputError, match="a population of no networks"):
        Specs.of([])


def test_valence_labels_are_the_signs_of_the_integrals(valence):
    scores = np.array([0, -2, -1, 0, 1, 2])
    decay = 0.8  # exp(-1 / 4.4814)
    for row in range(50):
        words = valence.test.inputs[row, : valence.test.lengths_N[row]].numpy()
        perfect = sum(scores[word] for word in words)
        leaky = sum(scores[word] * decay ** (len(words) - 1 - t) for t, word in enumerate(words))
        assert (perfect > 0) == bool(valence.test.targets["perfect"][row])
        assert (leaky > 0) == bool(valence.test.targets["leaky"][row])
