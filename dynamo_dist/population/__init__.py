"""The population: what to train (specs, groups), which networks together (plan), how (training), in which order and what becomes of
failures (scheduling), what a worker does (work), and where it lies (store)."""

from dynamo_dist.population.specs import NetworkSpec
from dynamo_dist.population.store import Population

__all__ = ["NetworkSpec", "Population"]
