"""What a recipe is: one frozen configuration from data to results."""

from dataclasses import dataclass

from dynamo_dist.data import Dataset
from dynamo_dist.data.tasks import Task, make
from dynamo_dist.metamodel import MetaModelConfig
from dynamo_dist.population import NetworkSpec
from dynamo_dist.population.groups import Group, specs_of

# Of seconds, for tests; of minutes, on a laptop; of the populations that are written about, for GPUs.
SIZES = ("tiny", "small", "paper")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An experiment from data to results."""

    name: str
    title: str
    # The data sets by name; groups say which is theirs.
    data: dict[str, Task]
    groups: tuple[Group, ...]
    meta: MetaModelConfig
    # Base of every network's seed.
    seed: int = 0
    # Exact copies of every network that are embedded beside it: with hidden units in another order, and with more of them.
    copies: int = 0
    wider: int = 0
    # The analyses (of `analysis.suite`) that it ends with.
    analyses: tuple[str, ...] = ()

    def make_data(self) -> dict[str, Dataset]:
        return {name: make(task) for name, task in self.data.items()}

    def specs(self, data: dict[str, Dataset]) -> list[NetworkSpec]:
        """The networks of all groups."""
        return list(specs_of(self.groups, data, seed=self.seed))
