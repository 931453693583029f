"""Tasks whose solutions are known attractors, made in memory from a seed.

    flip-flop            n bits to remember: 2^n stable points
    class integration    evidence for C classes: a (C - 1)-dimensional set of stable points
    sine generation      a limit cycle for each value of a constant input
    context              two lines of stable points; the context decides which of two inputs moves the state along its line

and `SignalsTask`, all of them on the same inputs: what a network computes is then in the network alone, not in what it is fed.

Sources: flip-flop and sine, Sussillo and Barak, Neural Computation 25 (2013); class integration, Aitken et al., "The geometry of
integration in text classification RNNs" (2020); context, Mante et al., Nature 503 (2013). Sizes and constants are ours.

Legend: N examples, T time steps, I input features, C classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from dynamo_dist.data.dataset import Dataset, Examples, Output
from dynamo_dist.errors import InputError


@dataclass(frozen=True, kw_only=True)
class _MadeTask:
    """How many examples of each part, and the seed of them all."""

    base: int = 4_000
    meta: int = 4_000
    test: int = 1_000
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class FlipFlopTask(_MadeTask):
    """Remember the sign of the last pulse on each of `bits` channels."""

    bits: int = 3
    steps: int = 50
    # Probability of a pulse, on each channel at each step.
    pulse: float = 0.1

    def __post_init__(self) -> None:
        if self.bits < 1 or self.steps < 1 or not 0 < self.pulse <= 1:
            raise InputError(
                f"FlipFlopTask: bits={self.bits}, steps={self.steps}, pulse={self.pulse}: "
                "expected at least 1 bit and 1 step, and a probability in (0, 1]"
            )


@dataclass(frozen=True, kw_only=True)
class SineTask(_MadeTask):
    """Generate the sine whose frequency a constant input tells."""

    steps: int = 60
    # Cycles per step, uniformly between these two; 0.5 is the highest that steps can show.
    lowest: float = 0.02
    highest: float = 0.1

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.lowest < self.highest < 0.5:
            raise InputError(
                f"SineTask: steps={self.steps}, lowest={self.lowest}, highest={self.highest}: "
                "expected at least 1 step and 0 < lowest < highest < 0.5 cycles per step"
            )


@dataclass(frozen=True, kw_only=True)
class ContextTask(_MadeTask):
    """Which sign has the mean of the one of two noisy channels that the context names?"""

    steps: int = 30
    # The noiseless value of each evidence channel is uniform in -strength .. strength, drawn for each example.
    strength: float = 0.5
    # Standard deviation of the noise, at every step.
    noise: float = 1.0
    # Examples whose relevant mean is within this of zero are drawn again: their class is a tie.
    margin: float = 0.05

    def __post_init__(self) -> None:
        if self.steps < 1 or self.strength < 0 or self.noise < 0 or not self.strength + self.noise > 0:
            raise InputError(
                f"ContextTask: steps={self.steps}, strength={self.strength}, noise={self.noise}: "
                "expected at least 1 step, nothing negative, and strength or noise above 0"
            )
        # A third of the draws passes then; a larger margin might never be met.
        largest = max(self.strength / 2, self.noise / self.steps**0.5)
        if not 0 <= self.margin <= largest:
            raise InputError(f"ContextTask.margin={self.margin}: expected 0 to {largest:.3g}, so that enough examples are clear")


@dataclass(frozen=True, kw_only=True)
class ClassIntegrationTask(_MadeTask):
    """Which of C classes has most words? Word 1 + c is evidence for class c, word 1 + C for none; all are as frequent."""

    classes: int = 3
    # Sequences are between these two lengths, uniformly.
    shortest: int = 15
    longest: int = 30

    def __post_init__(self) -> None:
        if self.classes < 2 or not 1 <= self.shortest <= self.longest:
            raise InputError(
                f"ClassIntegrationTask: classes={self.classes}, shortest={self.shortest}, longest={self.longest}: "
                "expected at least 2 classes and 1 <= shortest <= longest"
            )


@dataclass(frozen=True, kw_only=True)
class SignalsTask(_MadeTask):
    """Six computations on the same signals: flip-flops of 1, 2 and 3 bits, 3-class integration, a sine, context-dependent integration."""

    steps: int = 50
    # Of the inputs without labels the last steps are without pulses, a share drawn for each example between 0 and this: what a meta-model
    # learns from shows how long the networks remember. (Networks that are trained so do not learn to integrate: LSTMs and vanilla RNNs were
    # right in 57 to 76 %.)
    silence: float = 0.5
    # Probability of a pulse, on each of the three channels at each of the other steps.
    pulse: float = 0.1
    # Cycles per step of the sine, between these two.
    lowest: float = 0.02
    highest: float = 0.1

    def __post_init__(self) -> None:
        shares = 0 <= self.silence < 1 and 0 < self.pulse <= 1
        if self.steps < 1 or not shares or not 0 < self.lowest < self.highest < 0.5:
            raise InputError(
                f"SignalsTask: steps={self.steps}, silence={self.silence}, pulse={self.pulse}, lowest={self.lowest}, "
                f"highest={self.highest}: expected at least 1 step, a share in [0, 1), a probability in (0, 1], and 0 < lowest < highest < "
                "0.5 cycles per step"
            )
        if (self.steps - round(self.silence * self.steps)) * self.pulse < 1:
            raise InputError(
                f"SignalsTask: steps={self.steps}, silence={self.silence}, pulse={self.pulse}: expected a pulse on every channel, or too "
                "few decide a class"
            )


def make_flip_flop(task: FlipFlopTask) -> Dataset:
    """Inputs float32 (N, T, bits): pulses of 1 or -1, otherwise 0. Target `state`, the same shape: the last pulse; NaN before the first."""

    def part(rng: np.random.Generator, count: int) -> Examples:
        pulses = _pulses(rng, (count, task.steps, task.bits), task.pulse)
        return _sequences(pulses, state=_values(_last_pulse(pulses)))

    return _dataset(task, part, {"state": Output(kind="values", size=task.bits, every_step=True)})


def _pulses(rng: np.random.Generator, shape: tuple[int, ...], probability: float) -> np.ndarray:
    return rng.choice([-1.0, 1.0], size=shape) * (rng.random(shape) < probability)


def _last_pulse(pulses_NTI: np.ndarray) -> np.ndarray:
    """Of every channel at every step the last pulse, NaN before the first."""
    state, last = np.empty_like(pulses_NTI), np.full_like(pulses_NTI[:, 0], np.nan)
    for t in range(pulses_NTI.shape[1]):
        last = np.where(pulses_NTI[:, t] != 0, pulses_NTI[:, t], last)
        state[:, t] = last
    return state


def make_sine(task: SineTask) -> Dataset:
    """Inputs float32 (N, T, 1): from 0.25 at the lowest frequency f to 1.25 at the highest. Target `wave` (N, T, 1): sin 2 pi f t.

    Steps count from t = 0. The input is never 0, so that silence and the lowest frequency differ.
    """

    def part(rng: np.random.Generator, count: int) -> Examples:
        position = rng.random(count)
        frequency = task.lowest + position * (task.highest - task.lowest)
        inputs = np.repeat(0.25 + position[:, None, None], task.steps, axis=1)
        return _sequences(inputs, wave=_values(np.sin(2 * np.pi * frequency[:, None] * np.arange(task.steps))[..., None]))

    return _dataset(task, part, {"wave": Output(kind="values", size=1, every_step=True)})


def make_context(task: ContextTask) -> Dataset:
    """Inputs float32 (N, T, 4): two channels of evidence, two of context, (1, 0) or (0, 1) at all steps. Target `choice`, int64 (N,).

    Class 1: the mean over the steps of the channel that the context names is positive. It is the mean of what is shown, noise
    included: every example has a right answer.
    """

    def part(rng: np.random.Generator, count: int) -> Examples:
        inputs = np.empty((count, task.steps, 4), dtype=np.float32)
        means = np.zeros(count)
        open_ = np.arange(count)
        while open_.size:
            strength = rng.uniform(-task.strength, task.strength, size=(open_.size, 1, 2))
            context = rng.integers(2, size=open_.size)
            inputs[open_, :, :2] = strength + task.noise * rng.standard_normal((open_.size, task.steps, 2))
            inputs[open_, :, 2:] = np.eye(2)[context][:, None]
            means[open_] = inputs[open_, :, context].mean(axis=1, dtype=np.float64)
            # A mean of exactly 0 has no sign, whatever the margin.
            open_ = np.flatnonzero((np.abs(means) < task.margin) | (means == 0))
        return _sequences(inputs, choice=torch.from_numpy((means > 0).astype(np.int64)))

    return _dataset(task, part, {"choice": Output(kind="classes", size=2)})


def make_class_integration(task: ClassIntegrationTask) -> Dataset:
    """Tokens int64 (N, T), 0 is padding. Target `majority`, int64 (N,): the class with most words; ties are drawn again."""

    def part(rng: np.random.Generator, count: int) -> Examples:
        words = np.zeros((count, task.longest), dtype=np.int64)
        lengths = np.zeros(count, dtype=np.int64)
        label = np.zeros(count, dtype=np.int64)
        open_ = np.arange(count)
        while open_.size:
            lengths[open_] = rng.integers(task.shortest, task.longest, size=open_.size, endpoint=True)
            drawn = rng.integers(1, task.classes + 1, size=(open_.size, task.longest), endpoint=True)
            words[open_] = np.where(np.arange(task.longest) < lengths[open_, None], drawn, 0)
            evidence = np.stack([(words[open_] == 1 + c).sum(axis=1) for c in range(task.classes)], axis=1)
            label[open_] = evidence.argmax(axis=1)
            ordered = np.sort(evidence, axis=1)
            open_ = open_[ordered[:, -1] == ordered[:, -2]]
        tokens, lengths_N, majority = (torch.from_numpy(a) for a in (words, lengths, label))
        return Examples(inputs=tokens, lengths_N=lengths_N, targets={"majority": majority})

    return _dataset(task, part, {"majority": Output(kind="classes", size=task.classes)}, vocabulary=2 + task.classes)


def make_signals(task: SignalsTask) -> Dataset:
    """Inputs float32 (N, T, 5): three channels of pulses, 1 or -1 and otherwise 0, in the part without labels none in the last steps; two
    constants, the pitch in -1 .. 1 and the context, -1 or 1. Targets by the name of the computation:

        1-bit flip-flop, 2-bit, 3-bit   (N, T, 3): the last pulse on each of the first channels, NaN before the first; 0 for the others, which
                                        are not to be remembered: who remembers three does not do what one does who remembers one
        3-class integration             int64 (N,): the channel with the largest sum of pulses
        sine                            (N, T, 1): of the lowest frequency at pitch -1, of the highest at 1, from t = 0
        context                         int64 (N,): 1 where the sum of the channel that the context names is positive, the first for 1, the
                                        second for -1

    Pulses that leave a class undecided are drawn again, so every example has a right answer to all.
    """

    def part(rng: np.random.Generator, count: int, silence: float = 0.0) -> Examples:
        pulses = np.empty((count, task.steps, 3))
        loud = np.arange(task.steps) < task.steps - rng.integers(round(silence * task.steps), size=(count, 1), endpoint=True)
        pitch, context = rng.uniform(-1, 1, size=count), rng.choice([-1.0, 1.0], size=count)
        named = (context < 0).astype(np.int64)
        open_ = np.arange(count)
        while open_.size:
            pulses[open_] = _pulses(rng, (open_.size, task.steps, 3), task.pulse) * loud[open_, :, None]
            sums = pulses.sum(axis=1)
            ordered = np.sort(sums, axis=1)
            open_ = np.flatnonzero((ordered[:, -1] == ordered[:, -2]) | (sums[np.arange(count), named] == 0))
        constants = np.broadcast_to(np.stack([pitch, context], axis=1)[:, None], (count, task.steps, 2))
        frequency = task.lowest + (pitch + 1) / 2 * (task.highest - task.lowest)
        state = _last_pulse(pulses)
        return _sequences(
            np.concatenate([pulses, constants], axis=2),
            **{f"{bits}-bit flip-flop": _values(np.where(np.arange(3) < bits, state, 0.0)) for bits in (1, 2, 3)},
            **{
                "3-class integration": torch.from_numpy(sums.argmax(axis=1)),
                "sine": _values(np.sin(2 * np.pi * frequency[:, None] * np.arange(task.steps))[..., None]),
                "context": torch.from_numpy((sums[np.arange(count), named] > 0).astype(np.int64)),
            },
        )

    values = {f"{bits}-bit flip-flop": 3 for bits in (1, 2, 3)} | {"sine": 1}
    classes = {"3-class integration": 3, "context": 2}
    outputs = {name: Output(kind="values", size=size, every_step=True) for name, size in values.items()}
    outputs |= {name: Output(kind="classes", size=size) for name, size in classes.items()}
    return _dataset(task, part, outputs, meta_part=partial(part, silence=task.silence))


def _values(target: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(target.astype(np.float32))


def _sequences(inputs_NTI: np.ndarray, **targets: torch.Tensor) -> Examples:
    """Real-valued sequences of one length."""
    count, steps = inputs_NTI.shape[:2]
    return Examples(
        inputs=torch.from_numpy(inputs_NTI.astype(np.float32)), lengths_N=torch.full((count,), steps, dtype=torch.int64), targets=targets
    )


Part = Callable[[np.random.Generator, int], Examples]


def _dataset(
    task: _MadeTask, part: Part, outputs: dict[str, Output], *, meta_part: Part | None = None, vocabulary: int | None = None
) -> Dataset:
    """The three parts, drawn one after the other from one generator; `meta_part`: how that without labels is, if otherwise."""
    rng = np.random.default_rng(task.seed)
    base, meta = part(rng, task.base), (meta_part or part)(rng, task.meta)
    return Dataset(base=base, meta=meta, test=part(rng, task.test), vocabulary=vocabulary, outputs=outputs)
