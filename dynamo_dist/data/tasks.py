"""Data sets by the task that describes them."""

from collections.abc import Callable
from typing import Any

from dynamo_dist.data import attractors, images, text, valence
from dynamo_dist.data.dataset import Dataset

_MAKERS: dict[type, Callable[[Any], Dataset]] = {
    valence.ValenceTask: valence.make_valence,
    attractors.FlipFlopTask: attractors.make_flip_flop,
    attractors.SineTask: attractors.make_sine,
    attractors.ContextTask: attractors.make_context,
    attractors.ClassIntegrationTask: attractors.make_class_integration,
    attractors.SignalsTask: attractors.make_signals,
    text.TextTask: text.make_text,
    text.BilingualTask: text.make_bilingual,
    images.DigitsTask: images.make_digits,
    images.ImageTask: images.make_images,
}
Task = (
    valence.ValenceTask
    | attractors.FlipFlopTask
    | attractors.SineTask
    | attractors.ContextTask
    | attractors.ClassIntegrationTask
    | attractors.SignalsTask
    | text.TextTask
    | text.BilingualTask
    | images.DigitsTask
    | images.ImageTask
)


def make(task: Task) -> Dataset:
    """The data set of a task."""
    return _MAKERS[type(task)](task)
