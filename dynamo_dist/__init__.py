"""DYNAMO: train a population of neural networks, embed all of them in one meta-model, and analyse the embedding.

Source of the method: Cotler, Tai, Hernandez, Elias, Sussillo, arXiv 2302.14078.
"""

from dynamo_dist import analysis, recipes
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModel, MetaModelConfig
from dynamo_dist.pipeline import train_meta_model, train_population
from dynamo_dist.population import Population

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "MetaModel",
    "MetaModelConfig",
    "Population",
    "analysis",
    "recipes",
    "train_meta_model",
    "train_population",
]
