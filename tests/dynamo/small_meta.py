"""Meta-models that tests train in seconds."""

from dynamo_dist import MetaModel, MetaModelConfig
from dynamo_dist.metamodel import folder
from dynamo_dist.metamodel.shard import Alone
from dynamo_dist.metamodel.training import TrainingJob, train_shard


def train_meta(population, out, **fields):
    """A meta-model of this population in the folder `out`."""
    config = MetaModelConfig(**{"dimensions": 3, "hidden": 10, "embedding": 4, "steps": 60, "batch": 16} | fields)
    folder.prepare(out, population, config)
    train_shard(TrainingJob(population=str(population.path), out=str(out), config=config), group=Alone())
    return MetaModel.open(out)
