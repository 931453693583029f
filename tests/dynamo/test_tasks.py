"""Tasks made in memory: targets recomputed step by step from the definition."""

import math

import numpy as np
import pytest
import torch

from dynamo_dist import InputError
from dynamo_dist.data import Output
from dynamo_dist.data.attractors import (
    ClassIntegrationTask,
    ContextTask,
    FlipFlopTask,
    SignalsTask,
    SineTask,
    make_class_integration,
    make_context,
    make_flip_flop,
    make_signals,
    make_sine,
)
from dynamo_dist.data.valence import ValenceTask, make_valence

SMALL = {"base": 60, "meta": 40, "test": 30}
MAKERS = {
    "valence": lambda seed: make_valence(ValenceTask(**SMALL, seed=seed, negation=0.2)),
    "flip-flop": lambda seed: make_flip_flop(FlipFlopTask(**SMALL, seed=seed)),
    "sine": lambda seed: make_sine(SineTask(**SMALL, seed=seed)),
    "context": lambda seed: make_context(ContextTask(**SMALL, seed=seed)),
    "signals": lambda seed: make_signals(SignalsTask(**SMALL, seed=seed)),
    "classes": lambda seed: make_class_integration(ClassIntegrationTask(**SMALL, seed=seed)),
}


def sequences(part):
    """(inputs up to the length, row) of every example."""
    for row, length in enumerate(part.lengths_N.tolist()):
        assert not part.inputs[row, length:].any()  # padding
        yield part.inputs[row, :length].numpy(), row


@pytest.mark.parametrize("name", MAKERS)
def test_a_seed_is_a_data_set_and_parts_are_drawn_anew(name):
    one, same, other = (MAKERS[name](seed) for seed in (3, 3, 4))
    for part in one.PARTS:
        a, b = getattr(one, part), getattr(same, part)
        assert torch.equal(a.inputs, b.inputs) and len(a) == SMALL[part]
        for target, y in a.targets.items():
            assert torch.equal(y.nan_to_num(7), b.targets[target].nan_to_num(7))
    assert not torch.equal(one.base.inputs, other.base.inputs)
    assert not torch.equal(one.base.inputs[:30], one.test.inputs)


@pytest.mark.parametrize("span", [1, 3])
def test_negation_flips_the_sign_of_the_words_that_follow(span):
    data = make_valence(ValenceTask(**SMALL, negation=0.2, negation_span=span, words_per_score=2, shortest=2))
    assert data.vocabulary == 12 and list(data.outputs) == ["perfect", "leaky", "negation"]
    for words, row in sequences(data.base):
        perfect = leaky = negated = 0.0
        for t, word in enumerate(words):
            score = 0 if word == 11 else (word - 1) // 2 - 2
            before = sum(words[max(0, t - span) : t] == 11)
            perfect += score
            leaky = leaky * math.exp(-1 / 4.4814) + score
            negated += score * (-1) ** before
        for target, integral in (("perfect", perfect), ("leaky", leaky), ("negation", negated)):
            assert abs(integral) >= 0.25 - 1e-9
            assert data.base.targets[target][row] == int(integral > 0)
    differ = data.base.targets["perfect"] != data.base.targets["negation"]
    assert differ.any() and not differ.all()


def test_without_negation_the_words_of_a_seed_are_what_they_were():
    """First words and classes of seed 0 as version 0.1 made them: runs and published numbers depend on them."""
    data = make_valence(ValenceTask(base=4, meta=2, test=2, shortest=3, longest=6))
    assert data.vocabulary == 6 and list(data.outputs) == ["perfect", "leaky"]
    assert data.base.inputs.tolist() == VALENCE_WORDS
    assert data.base.targets["perfect"].tolist() == VALENCE_PERFECT


VALENCE_WORDS = [[1, 5, 4, 5, 3, 4], [5, 4, 4, 3, 3, 0], [2, 5, 4, 1, 2, 0], [1, 5, 1, 3, 0, 0]]
VALENCE_PERFECT = [1, 1, 0, 0]


@pytest.mark.parametrize("bits", [1, 2, 3])
def test_flip_flop_remembers_the_last_pulse_of_each_channel(bits):
    data = make_flip_flop(FlipFlopTask(**SMALL, bits=bits, steps=40))
    assert data.kind == "values" and data.input_shape == (bits,)
    assert data.outputs == {"state": Output(kind="values", size=bits, every_step=True)}
    for pulses, row in sequences(data.base):
        last = [math.nan] * bits
        for t, pulse in enumerate(pulses):
            last = [p if p else before for p, before in zip(pulse.tolist(), last, strict=True)]
            assert np.array_equal(data.base.targets["state"][row, t].numpy(), last, equal_nan=True)
    values, counts = data.base.inputs.unique(return_counts=True)
    assert values.tolist() == [-1, 0, 1]
    assert abs(float(counts[1] / counts.sum()) - 0.9) < 0.03


def test_sine_has_the_frequency_that_the_input_tells():
    data = make_sine(SineTask(**SMALL, steps=200, lowest=0.05, highest=0.2))
    for signal, row in sequences(data.test):
        assert len(set(signal[:, 0].tolist())) == 1
        frequency = 0.05 + (float(signal[0, 0]) - 0.25) * 0.15
        wave = data.test.targets["wave"][row, :, 0].double().numpy()
        # The truth: the frequency at which a least-squares fit of sine and cosine leaves nothing.
        t = np.arange(200)
        basis = np.stack([np.sin(2 * np.pi * frequency * t), np.cos(2 * np.pi * frequency * t)], axis=1)
        amplitudes, *_ = np.linalg.lstsq(basis, wave, rcond=None)
        assert np.allclose(amplitudes, [1, 0], atol=1e-4) and np.allclose(basis @ amplitudes, wave, atol=1e-4)
    assert 0.25 <= data.base.inputs.min() < 0.4 and 1.1 < data.base.inputs.max() <= 1.25


def test_context_says_which_evidence_counts():
    data = make_context(ContextTask(**SMALL, steps=20))
    other = 0
    for inputs, row in sequences(data.base):
        context = inputs[:, 2:]
        assert (context == context[0]).all() and sorted(context[0].tolist()) == [0, 1]
        means = inputs[:, :2].astype(np.float64).mean(axis=0)
        relevant = int(context[0, 1])
        assert abs(means[relevant]) >= 0.05 - 1e-9
        assert data.base.targets["choice"][row] == int(means[relevant] > 0)
        other += int((means[1 - relevant] > 0) != (means[relevant] > 0))
    assert 15 < other < 45  # the other channel says nothing


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_class_integration_is_won_by_the_class_with_most_words(classes):
    data = make_class_integration(ClassIntegrationTask(**SMALL, classes=classes, shortest=4, longest=12))
    assert data.kind == "tokens" and data.vocabulary == classes + 2
    assert data.outputs == {"majority": Output(kind="classes", size=classes)}
    lengths = set()
    for words, row in sequences(data.base):
        assert set(words.tolist()) <= set(range(1, classes + 2))
        counts = [words.tolist().count(1 + c) for c in range(classes)]
        winner = int(data.base.targets["majority"][row])
        assert all(counts[winner] > count for c, count in enumerate(counts) if c != winner)
        lengths.add(len(words))
    assert min(lengths) == 4 and max(lengths) == 12
    assert set(data.base.targets["majority"].tolist()) == set(range(classes))


def test_six_computations_on_the_same_signals():
    data = make_signals(SignalsTask(**SMALL, steps=30, pulse=0.2, lowest=0.02, highest=0.1))
    assert data.kind == "values" and data.input_shape == (5,)
    targets = {name: target.numpy() for name, target in data.base.targets.items()}
    assert set(targets) == {"1-bit flip-flop", "2-bit flip-flop", "3-bit flip-flop", "3-class integration", "sine", "context"}
    other = 0
    for signals, row in sequences(data.base):
        pulses, pitch, context = signals[:, :3], signals[0, 3], signals[0, 4]
        assert (signals[:, 3:] == signals[0, 3:]).all() and -1 <= pitch <= 1 and context in (-1, 1)
        last = [math.nan] * 3
        for t, pulse in enumerate(pulses):
            last = [p if p else before for p, before in zip(pulse.tolist(), last, strict=True)]
            for bits in (1, 2, 3):
                assert np.array_equal(targets[f"{bits}-bit flip-flop"][row, t], last[:bits] + [0] * (3 - bits), equal_nan=True)
        sums = [sum(channel) for channel in pulses.T.tolist()]
        assert [c for c in range(3) if sums[c] == max(sums)] == [targets["3-class integration"][row]]
        relevant = 0 if context > 0 else 1
        assert sums[relevant] != 0 and targets["context"][row] == int(sums[relevant] > 0)
        other += int((sums[1 - relevant] > 0) != (sums[relevant] > 0))
        frequency = 0.02 + (float(pitch) + 1) / 2 * 0.08
        assert np.allclose(targets["sine"][row, :, 0], [math.sin(2 * math.pi * frequency * t) for t in range(30)], atol=1e-5)
    last_pulse = {part: (getattr(data, part).inputs[..., :3] != 0).any(dim=2).nonzero()[:, 1] for part in ("base", "meta")}
    count = {part: torch.bincount(steps, minlength=30) for part, steps in last_pulse.items()}
    assert count["base"][25:].sum() > 4 * count["meta"][25:].sum() > 0 and count["meta"][:15].min() > 0
    assert 15 < other < 45  # the channel that the context does not name says nothing


def test_impossible_tasks_are_one_sentence():
    for make, words in (
        (lambda: ValenceTask(negation=1.0), "ValenceTask.negation=1.0"),
        (lambda: FlipFlopTask(bits=0), "FlipFlopTask: bits=0"),
        (lambda: SineTask(highest=0.6), "highest=0.6: expected at least 1 step and 0 < lowest < highest < 0.5"),
        (lambda: ContextTask(margin=3.0), "ContextTask.margin=3.0: expected 0 to 0.25"),
        (lambda: ContextTask(noise=0.0, strength=0.0, margin=0.0), "strength or noise above 0"),
        (lambda: ClassIntegrationTask(classes=1), "classes=1"),
        (lambda: SignalsTask(lowest=0.0), "SignalsTask: steps=50, silence=0.5, pulse=0.1, lowest=0.0"),
        (lambda: SignalsTask(steps=15), "steps=15, silence=0.5, pulse=0.1: expected a pulse on every channel"),
    ):
        with pytest.raises(InputError, match=words.replace("(", r"\(")):
            make()
