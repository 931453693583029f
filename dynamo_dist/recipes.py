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
from dynamo_dist.population import NetworkSpec
from dynamo_dist.population.groups import Group, specs_of

SIZES = ("tiny", "small")


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
        """The networks of all groups."""
        return list(specs_of(self.groups, data, seed=self.seed))


def valence(*, size: str = "small", data: str | None = None) -> Recipe:
    """Word-valence integration: perfect and leaky integrators, GRU and vanilla RNN, trained on tokens made in memory."""
    if data is not None:
        raise InputError("the recipe valence makes its data in memory: leave --data out")
    # As many perfect integrators as leaky ones: where one computation has the majority, a meta-model without theta agrees with
    # most networks by siding with it, and the comparison with that control says little.
    half = {"tiny": 4, "small": 12}[size]
    task = {"tiny": ValenceTask(base=1280, meta=640, test=400, longest=20), "small": ValenceTask()}[size]
    steps = {"tiny": 100, "small": 1500}[size]

    def integrators(kind: str, cell: str, hidden: int, networks: int) -> Group:
        return Group(
            name=f"{kind} {cell}-{hidden}", computation=kind, target=kind, networks=networks,
            architecture={"family": "recurrent", "cell": cell, "hidden": hidden, "features": 16}, training={"epochs": 3},
        )  # fmt: skip

    return Recipe(
        name="valence",
        title="Word-valence integration",
        data=task,
        groups=(
            integrators("perfect", "gru", 32, half // 2),
            integrators("leaky", "gru", 32, half),
            integrators("perfect", "rnn", 48, half // 2),
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
            name=f"{percent} %", networks=each, fraction=percent / 100,
            architecture={"family": "recurrent", "cell": "gru", "hidden": hidden, "features": 32},
            training={"batch": batch, "epochs": epochs, "learning_rate": 2e-3},
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
