"""The population: what to train (specs), which networks together (plan), how (training), and where it lies (store)."""

from dynamo_dist.population.specs import NetworkSpec
from dynamo_dist.population.store import Population

__all__ = ["NetworkSpec", "Population"]
