"""Named, complete experiments: every function returns one frozen configuration."""

import dataclasses
from collections.abc import Callable
from typing import Any

from dynamo_dist.errors import InputError
from dynamo_dist.recipes.base import SIZES, Recipe
from dynamo_dist.recipes.images import cifar_policies, digits, landscape, semisupervised
from dynamo_dist.recipes.synthetic import attractors, averaging, reparameterize, valence
from dynamo_dist.recipes.text import imdb_amount, imdb_architecture, imdb_piglatin, imdb_trajectory, sst2_architecture

RECIPES: dict[str, Callable[..., Recipe]] = {
    "valence": valence,
    "attractors": attractors,
    "digits": digits,
    "landscape": landscape,
    "semisupervised": semisupervised,
    "averaging": averaging,
    "reparameterize": reparameterize,
    "imdb-amount": imdb_amount,
    "imdb-trajectory": imdb_trajectory,
    "imdb-piglatin": imdb_piglatin,
    "imdb-architecture": imdb_architecture,
    "sst2-architecture": sst2_architecture,
    "cifar-policies": cifar_policies,
}


def recipe(name: str, *, size: str = "small", data: str | None = None) -> Recipe:
    """A recipe by its name on the command line. Raises `InputError` that lists the known ones."""
    if name not in RECIPES:
        raise InputError(f"unknown recipe {name!r}: the recipes are {', '.join(RECIPES)}")
    if size not in SIZES:
        raise InputError(f"unknown size {size!r}: the sizes are {', '.join(SIZES)}")
    return RECIPES[name](size=size, data=data)


def identity(of: Recipe) -> dict[str, Any]:
    """What makes two runs the same run, as JSON values."""
    return dataclasses.asdict(of)


__all__ = [
    "RECIPES",
    "SIZES",
    "Recipe",
    "attractors",
    "averaging",
    "cifar_policies",
    "digits",
    "identity",
    "imdb_amount",
    "imdb_architecture",
    "imdb_piglatin",
    "imdb_trajectory",
    "landscape",
    "recipe",
    "reparameterize",
    "semisupervised",
    "sst2_architecture",
    "valence",
]
