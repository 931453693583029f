"""Recipes whose data are made in memory: computations that are known."""

import dataclasses

from dynamo_dist.data.attractors import SignalsTask
from dynamo_dist.data.valence import ValenceTask
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModelConfig
from dynamo_dist.population.groups import Group
from dynamo_dist.recipes.base import Recipe


def valence(*, size: str = "small", data: str | None = None) -> Recipe:
    """Word-valence integration: perfect and leaky integrators, GRU and vanilla RNN, trained on tokens made in memory."""
    if data is not None:
        raise InputError("the recipe valence makes its data in memory: leave --data out")
    # As many perfect integrators as leaky ones: where one computation has the majority, a meta-model without theta agrees with
    # most networks by siding with it, and the comparison with that control says little.
    half, widths = {"tiny": (4, (32, 48)), "small": (12, (32, 48)), "paper": (120, (64, 128))}[size]
    task = {"tiny": ValenceTask(base=1280, meta=640, test=400, longest=20)}.get(size, ValenceTask())
    meta = {
        "tiny": MetaModelConfig(steps=100),
        # Hidden R^2, median and lowest, after 800 steps at a rate of 12e-3: 0.990, 0.968, at 20e-3 0.991, 0.973; after 1,500 at 5e-3 0.990, 0.963.
        "small": MetaModelConfig(steps=1000, learning_rate=2e-2),
        "paper": MetaModelConfig(dimensions=8, hidden=128, steps=10_000),
    }[size]

    def integrators(kind: str, cell: str, hidden: int, networks: int) -> Group:
        return Group(
            name=f"{kind} {cell}-{hidden}", computation=kind, target=kind, networks=networks,
            architecture={"family": "recurrent", "cell": cell, "hidden": hidden, "features": 16}, training={"epochs": 3},
        )  # fmt: skip

    return Recipe(
        name="valence",
        title="Word-valence integration",
        data={"data": task},
        groups=(
            integrators("perfect", "gru", widths[0], half // 2),
            integrators("leaky", "gru", widths[0], half),
            integrators("perfect", "rnn", widths[1], half // 2),
        ),
        meta=meta,
        analyses=("similarity", "averaging", "memory"),
    )


def attractors(*, size: str = "small", data: str | None = None) -> Recipe:
    """Flip-flops of 1, 2 and 3 bits, class integration, sine generation and context-dependent integration; GRU, LSTM, vanilla RNN."""
    if data is not None:
        raise InputError("the recipe attractors makes its data in memory: leave --data out")
    # All on the same inputs. Where every task had inputs of its own these told the meta-model what to compute, and theta need not: one
    # vector served flip-flops of 1, 2 and 3 bits, as one with three bits does what the others do on silent channels.
    parts = {"tiny": {"base": 640, "meta": 320, "test": 200}, "small": {}, "paper": {"base": 20_000, "meta": 20_000}}[size]
    small = (("gru", 32), ("gru", 48), ("lstm", 24), ("rnn", 48))
    architectures = {"tiny": (("gru", 12),), "small": small, "paper": (("gru", 64), ("gru", 128), ("lstm", 64), ("rnn", 128))}[size]
    # Vanilla RNNs integrate over 50 steps only after long training: in context 79 % after 12 epochs, 98 % after 36.
    each, epochs, long = {"tiny": (1, 2, 2), "small": (1, 12, 36), "paper": (10, 12, 36)}[size]
    meta = {
        "tiny": MetaModelConfig(dimensions=6, steps=60),
        # After 800 steps at a rate of 5e-3, 8e-3, 12e-3, 20e-3 and 30e-3: hidden R^2 0.936, 0.956, 0.964, 0.970, 0.970 (lowest 0.886, 0.910,
        # 0.931, 0.929, 0.942), agreement 0.952, 0.966, 0.977, 0.978, 0.985. But after 2,500 or 3,000 steps at 20e-3 or more groups share a
        # vector (adjusted Rand 0.74).
        "small": MetaModelConfig(dimensions=6, steps=800, learning_rate=1.2e-2),
        "paper": MetaModelConfig(dimensions=12, hidden=256, steps=20_000),
    }[size]
    # Without the last two the meta-model holds bits along lines where the networks have points (of 12 flip-flops 2 had as many), for want of
    # a reason not to. film: hidden R^2 0.970, lowest 0.948, where concat has 0.965, 0.936.
    meta = dataclasses.replace(meta, unlike_tasks="pad", conditioning="film", mix_states=True, conjugacy_weight=0.2)

    def group(task: str, cell: str, hidden: int) -> Group:
        return Group(
            name=f"{task} {cell}-{hidden}", computation=task, target=task, networks=each,
            architecture={"family": "recurrent", "cell": cell, "hidden": hidden},
            training={
                "batch": 32, "epochs": long if cell == "rnn" else epochs, "learning_rate": 1e-3 if cell == "rnn" else 5e-3,
            },
        )  # fmt: skip

    tasks = (*(f"{bits}-bit flip-flop" for bits in (1, 2, 3)), "3-class integration", "sine", "context")
    return Recipe(
        name="attractors",
        title="Tasks with known attractors",
        data={"data": SignalsTask(**parts)},
        groups=tuple(group(task, cell, hidden) for task in tasks for cell, hidden in architectures),
        meta=meta,
        analyses=("similarity",),
    )


def averaging(*, size: str = "small", data: str | None = None) -> Recipe:
    """Means of embedding vectors of the integrators of `valence` against means of weights and ensembles."""
    return dataclasses.replace(valence(size=size, data=data), name="averaging", title="Averages of networks", analyses=("averaging",))


def reparameterize(*, size: str = "small", data: str | None = None) -> Recipe:
    """The integrators of `valence` beside exact copies of them with other weights: hidden units in another order, and more units."""
    recipe = valence(size=size, data=data)
    # Copies come together as training goes on: theta starts at 0.
    meta = dataclasses.replace(recipe.meta, steps={"small": 2400}.get(size, recipe.meta.steps))
    return dataclasses.replace(
        recipe, name="reparameterize", title="Copies with other weights", meta=meta, copies=1, wider=1, analyses=("reparameterize",)
    )
