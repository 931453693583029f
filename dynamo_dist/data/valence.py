"""Word-valence integration, made in memory: every word carries a score, the class is the sign of an integral of the scores.

A perfect integrator sums the scores; a leaky one forgets: s_t = exp(-1/tau) s_{t-1} + score_t. Where there is a negation word ("not"),
a third labelling heeds it: the sum of scores in which each negation flips the sign of the words that follow it. All labellings are of
the same inputs, so networks that learn one or another differ in what they compute and in nothing else.
"""

from dataclasses import dataclass

import numpy as np
import torch

from dynamo_dist.data.dataset import Dataset, Examples, Output
from dynamo_dist.errors import InputError

SCORES = (-2, -1, 0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class ValenceTask:
    """Sizes and constants of the word-valence task."""

    # Words per score; ids 1.. are words, id 0 is padding.
    words_per_score: int = 1
    # Sequences are between these two lengths, uniformly.
    shortest: int = 15
    longest: int = 30
    # Time constant of the leaky labelling in steps: the state decays by exp(-1/tau) = 0.8 a step.
    leak_time_constant: float = 4.4814
    # Share of words that are the negation word, which has the last id and the score 0; with 0 there is no such word and no such labelling.
    negation: float = 0.0
    # Words after a negation whose sign it flips; where several negations reach a word, an even number of them cancels.
    negation_span: int = 1
    # Sequences with an integral (of any labelling) within this of zero are drawn again: their class is a tie.
    margin: float = 0.25
    base: int = 12_000
    meta: int = 12_000
    test: int = 4_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise InputError(f"ValenceTask.shortest={self.shortest}, longest={self.longest}: expected 1 <= shortest <= longest")
        if not self.leak_time_constant > 0:
            raise InputError(f"ValenceTask.leak_time_constant={self.leak_time_constant}: expected a positive number of steps")
        if not 0 <= self.negation < 1 or self.negation_span < 1:
            raise InputError(
                f"ValenceTask.negation={self.negation}, negation_span={self.negation_span}: expected a share in [0, 1) and at least 1 word"
            )


def integrals(scores_NT: np.ndarray, decay: float) -> np.ndarray:
    """Value of s_t = decay s_{t-1} + score_t after the last step; float64 of shape (N,)."""
    state = np.zeros(scores_NT.shape[0])
    for t in range(scores_NT.shape[1]):
        state = decay * state + scores_NT[:, t]
    return state


def negation_signs(negated_NT: np.ndarray, span: int) -> np.ndarray:
    """-1 where an odd number of the `span` words before is a negation, else 1; int64 of shape (N, T)."""
    signs = np.ones(negated_NT.shape, dtype=np.int64)
    for back in range(1, span + 1):
        signs[:, back:] *= np.where(negated_NT[:, :-back], -1, 1)
    return signs


def make_valence(task: ValenceTask) -> Dataset:
    """The data set with the labellings `perfect`, `leaky` and, where there is that word, `negation`; class 1: the integral is positive."""
    rng = np.random.default_rng(task.seed)
    decay = np.exp(-1 / task.leak_time_constant)
    scored = 1 + len(SCORES) * task.words_per_score
    names = ("perfect", "leaky", "negation") if task.negation else ("perfect", "leaky")

    def part(count: int) -> Examples:
        kept: list[tuple[np.ndarray, ...]] = []
        have = 0
        while have < count:
            size = 2 * count
            lengths = rng.integers(task.shortest, task.longest, size=size, endpoint=True)
            score_index = rng.integers(len(SCORES), size=(size, task.longest))
            words = 1 + score_index * task.words_per_score + rng.integers(task.words_per_score, size=score_index.shape)
            valid = np.arange(task.longest) < lengths[:, None]
            scores = np.where(valid, np.array(SCORES)[score_index], 0)
            # Drawn only where it is used: without negation the data of a seed are what they always were.
            negated = rng.random(words.shape) < task.negation if task.negation else np.zeros_like(valid)
            words[negated], scores[negated] = scored, 0
            words[~valid] = 0
            # The leaky integral ends at the last word, not at the last column: undo the decay over the padding.
            leaky = integrals(scores, decay) / decay ** (task.longest - lengths)
            found = [integrals(scores, 1.0), leaky]
            if task.negation:
                found.append(integrals(scores * negation_signs(negated, task.negation_span), 1.0))
            clear = np.all([np.abs(integral) >= task.margin for integral in found], axis=0)
            kept.append((words[clear], lengths[clear], *(integral[clear] > 0 for integral in found)))
            have += int(clear.sum())
        inputs, lengths_N, *labels = (torch.from_numpy(np.concatenate(a)[:count].astype(np.int64)) for a in zip(*kept, strict=True))
        return Examples(inputs=inputs, lengths_N=lengths_N, targets=dict(zip(names, labels, strict=True)))

    return Dataset(
        base=part(task.base),
        meta=part(task.meta),
        test=part(task.test),
        vocabulary=scored + bool(task.negation),
        outputs={name: Output(kind="classes", size=2) for name in names},
    )
