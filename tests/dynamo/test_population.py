"""Training of a stack against a loop of torch modules; what neighbours may not do to each other; the plan."""

import dataclasses

import numpy as np
import pytest
import torch
from small_population import make_specs

from dynamo_dist import InputError
from dynamo_dist.networks import stack_class
from dynamo_dist.population import plan
from dynamo_dist.population.specs import NetworkSpec, check_specs
from dynamo_dist.population.training import StackedAdam, batch_order, clip_per_network, schedule, train_chunk


def train_alone(spec, data):
    """The same training of one network with torch's own module, optimiser and clipping."""
    module = stack_class(spec.architecture).initial(spec.architecture, [spec.seed]).to(torch.float64).network(0)
    optimiser = torch.optim.Adam(module.parameters(), lr=spec.learning_rate)
    for step, index in enumerate(torch.from_numpy(batch_order(spec, len(data)))):
        part = data.select(index)
        _, logits = module(part.inputs, part.lengths_N)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits, part.targets[spec.target]).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), spec.clip)
        optimiser.param_groups[0]["lr"] = spec.learning_rate * schedule(step, spec.steps)
        optimiser.step()
    return module


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_stacked_training_equals_a_loop_of_torch_modules(valence, cell):
    specs = [spec for spec in make_specs(valence, epochs=3) if spec.architecture.cell == cell]
    # Each with its own learning rate and clipping.
    specs = [dataclasses.replace(spec, learning_rate=1e-3 * (i + 1), clip=0.1 * (i + 1)) for i, spec in enumerate(specs)]
    trained = train_chunk(specs, valence.base, dtype=torch.float64)
    for m, spec in enumerate(specs):
        ours, theirs = trained.networks.network(m).state_dict(), train_alone(spec, valence.base).state_dict()
        for name in theirs:
            # 24 steps of Adam: rounding enters through g / (sqrt(v) + eps), relative to each entry's own gradient.
            assert (ours[name] - theirs[name]).norm() <= 1e-9 * theirs[name].norm().clamp(min=1.0), name


def test_a_poisoned_network_is_frozen_and_its_neighbours_do_not_notice(valence):
    specs = [spec for spec in make_specs(valence) if spec.architecture.cell == "gru"]
    sound = train_chunk(specs, valence.base)
    # A learning rate that overflows float32 within a few steps.
    poisoned = train_chunk([dataclasses.replace(specs[0], learning_rate=1e38), *specs[1:]], valence.base)
    assert sound.failed_at == [-1] * len(specs)
    assert poisoned.failed_at[0] >= 0 and poisoned.failed_at[1:] == [-1] * (len(specs) - 1)
    for name, p in poisoned.networks.parameters.items():
        assert torch.equal(p[1:], sound.networks.parameters[name][1:])


def test_a_network_does_not_depend_on_the_chunk_beyond_rounding(valence):
    specs = [spec for spec in make_specs(valence) if spec.architecture.cell == "gru"]
    together, alone = train_chunk(specs, valence.base, dtype=torch.float64), train_chunk(specs[2:3], valence.base, dtype=torch.float64)
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


def test_plan_holds_every_network_once_and_stacks_only_what_fits(valence):
    specs = make_specs(valence, networks=5)
    for workers in (1, 2, 3, 50):
        chunks = plan.plan_chunks(specs, data="x", workers=workers)
        assert sorted(spec.id for chunk in chunks for spec in chunk.specs) == sorted(spec.id for spec in specs)
        assert all(len({spec.architecture for spec in chunk.specs}) == 1 for chunk in chunks)
        assert len({chunk.name for chunk in chunks}) == len(chunks)
        assert [chunk.cost for chunk in chunks] == sorted((chunk.cost for chunk in chunks), reverse=True)


def test_specs_survive_json(valence):
    for spec in make_specs(valence):
        assert NetworkSpec.from_json(spec.to_json()) == spec


def test_wrong_specs_are_refused_with_the_field(valence):
    specs = make_specs(valence)
    with pytest.raises(InputError, match="batch=300 is larger than its 256 samples"):
        dataclasses.replace(specs[0], batch=300)
    with pytest.raises(InputError, match="learning_rate=-1"):
        dataclasses.replace(specs[0], learning_rate=-1.0)
    with pytest.raises(InputError, match="two networks have the id"):
        check_specs([specs[0], specs[0]], targets=["perfect"], available=400)
    with pytest.raises(InputError, match="target='leaky' is not in the data set, which has: perfect"):
        check_specs(specs, targets=["perfect"], available=400)
    with pytest.raises(InputError, match="samples=256, but the labelled part has 100"):
        check_specs(specs, targets=["perfect", "leaky"], available=100)


def test_valence_labels_are_the_signs_of_the_integrals(valence):
    scores = np.array([0, -2, -1, 0, 1, 2])
    decay = 0.8  # exp(-1 / 4.4814)
    for row in range(50):
        words = valence.test.inputs[row, : valence.test.lengths_N[row]].numpy()
        perfect = sum(scores[word] for word in words)
        leaky = sum(scores[word] * decay ** (len(words) - 1 - t) for t, word in enumerate(words))
        assert (perfect > 0) == bool(valence.test.targets["perfect"][row])
        assert (leaky > 0) == bool(valence.test.targets["leaky"][row])
