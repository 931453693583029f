"""Named, complete experiments: every function returns one frozen configuration."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dynamo_dist.data import Dataset
from dynamo_dist.data.text import TextTask, make_text
from dynamo_dist.data.valence import ValenceTask, make_valence
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModelConfig
from dynamo_dist.networks import Recurrent
from dynamo_dist.population import NetworkSpec

SIZES = ("tiny", "small")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Networks made alike."""

    name: str
    # The truth that clusters are judged against.
    computation: str
    # Which target of the data they learn.
    target: str
    cell: str
    hidden: int
    networks: int
    # Features of the token embedding.
    features: int = 16
    # Share of the labelled part that each sees, its own draw.
    fraction: float = 1.0
    batch: int = 64
    epochs: int = 3
    learning_rate: float = 3e-3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An experiment from data to results."""

    name: str
    title: str
    data: ValenceTask | TextTask
    groups: tuple[Group, ...]
    meta: MetaModelConfig
    # Base of every network's seed.
    seed: int = 0

    def make_data(self) -> Dataset:
        return make_valence(self.data) if isinstance(self.data, ValenceTask) else make_text(self.data)

    def specs(self, data: Dataset) -> list[NetworkSpec]:
        """The networks of all groups. Seeds count through the population."""
        specs = []
        for group in self.groups:
            architecture = Recurrent(
                cell=group.cell,
                hidden=group.hidden,
                features=group.features,
                vocabulary=data.vocabulary,
                outputs=data.outputs[group.target].size,
            )
            for number in range(group.networks):
                specs.append(
                    NetworkSpec(
                        id=f"{group.name} #{number}",
                        group=group.name,
                        computation=group.computation,
                        architecture=architecture,
                        target=group.target,
                        seed=1000 * self.seed + len(specs),
                        samples=round(group.fraction * len(data.base)),
                        batch=group.batch,
                        epochs=group.epochs,
                        learning_rate=group.learning_rate,
                    )
                )
        return specs


def valence(*, size: str = "small", data: str | None = None) -> Recipe:
    """Word-valence integration: perfect and leaky integrators, GRU and vanilla RNN, trained on tokens made in memory."""
    if data is not None:
        raise InputError("the recipe valence makes its data in memory: leave --data out")
    # As many perfect integrators as leaky ones: where one computation has the majority, a meta-model without theta agrees with
    # most networks by siding with it, and the comparison with that control says little.
    half = {"tiny": 4, "small": 12}[size]
    task = {"tiny": ValenceTask(base=1280, meta=640, test=400, longest=20), "small": ValenceTask()}[size]
    steps = {"tiny": 100, "small": 1500}[size]
    return Recipe(
        name="valence",
        title="Word-valence integration",
        data=task,
        groups=(
            Group(name="perfect gru-32", computation="perfect", target="perfect", cell="gru", hidden=32, networks=half // 2),
            Group(name="leaky gru-32", computation="leaky", target="leaky", cell="gru", hidden=32, networks=half),
            Group(name="perfect rnn-48", computation="perfect", target="perfect", cell="rnn", hidden=48, networks=half // 2),
        ),
        meta=MetaModelConfig(steps=steps),
    )


def imdb_amount(*, size: str = "small", data: str | None = None) -> Recipe:
    """GRUs trained on 100, 50 and 25 % of the labelled half of the IMDB reviews."""
    if data is None:
        raise InputError(
            "the recipe imdb-amount needs --data DIR with train.parquet and test.parquet; see `dynamo-dist import-data imdb --help`"
        )
    each, hidden, epochs, batch = {"tiny": (1, 8, 1, 8), "small": (4, 48, 4, 32)}[size]
    task = TextTask(folder=str(Path(data).resolve()), classes=2, **({"length": 20, "vocabulary": 200} if size == "tiny" else {}))
    meta = {
        "tiny": MetaModelConfig(dimensions=3, hidden=16, steps=20),
        "small": MetaModelConfig(dimensions=8, hidden=128, embedding=48, steps=1200, batch=12, learning_rate=3e-3),
    }[size]

    def group(percent: int) -> Group:
        return Group(
            name=f"{percent} %", computation=f"{percent} %", target="label", cell="gru", hidden=hidden, networks=each,
            features=32, fraction=percent / 100, batch=batch, epochs=epochs, learning_rate=2e-3,
        )  # fmt: skip

    return Recipe(
        name="imdb-amount",
        title="IMDB reviews, by amount of training data",
        data=task,
        groups=(group(100), group(50), group(25)),
        meta=meta,
    )


RECIPES: dict[str, Callable[..., Recipe]] = {"valence": valence, "imdb-amount": imdb_amount}


def recipe(name: str, *, size: str = "small", data: str | None = None) -> Recipe:
    """A recipe by its name on the command line. Raises `InputError` that lists the known ones."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: the recipes are {', '.join(RECIPES)}")
    if size not in SIZES:
        raise InputError(f"unknown size {size!r}: the sizes are {', '.join(SIZES)}")
    return RECIPES[name](size=size, data=data)


def identity(of: Recipe) -> dict:
    """What makes two runs the same run, as JSON values."""
    return dataclasses.asdict(of)
