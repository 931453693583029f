"""The meta-model: one network that emulates every network of a population, selected by an embedding vector theta."""

from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.metamodel import MetaModel

__all__ = ["MetaModel", "MetaModelConfig"]
