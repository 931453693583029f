"""How users call the two packages. This is not run: a type checker reads it, with the annotations that the packages bring (`py.typed`)."""

from typing import assert_type

import numpy as np
from torch import Tensor, nn

import dynamo_dist
from dynamo_dist import MetaModel, Population, recipes
from jordan_dist import AffineFamily, ExceptionalPoint, QuadraticPencil, find_exceptional_point, jordan_chain, scan_exceptional_points


def dynamo(module: nn.Module) -> None:
    population = dynamo_dist.train_population(recipes.valence(), out="runs/pop", workers=2)
    assert_type(population, Population)
    meta = dynamo_dist.train_meta_model(population, out="runs/meta", workers=2)
    assert_type(meta, MetaModel)
    assert_type(meta.network_ids, tuple[str, ...])
    theta = meta.embedding.mean(axis=0)
    assert_type(meta.emulate(theta, population.data.test.inputs, population.data.test.lengths_N), tuple[Tensor | list[Tensor], Tensor])
    assert_type(population.network("a"), nn.Module)
    assert_type(meta.embed(module).ids, tuple[str, ...])
    found = dynamo_dist.analysis.fixed_points(meta)
    found.topology("zero")
    dynamo_dist.analysis.similarity([meta]).summary()
    meta.network(theta).save("folder")
    Population.from_modules({"mine": module}, data=population.data, out="runs/theirs")


def jordan(A: np.ndarray) -> None:
    chain = jordan_chain(A, target=7.6 - 0.2j)
    assert_type(chain.eigenvalue, complex)
    assert_type(chain.verdict, str)
    chain.forward_bounds(A, perturbation=1e-6)
    point = find_exceptional_point(AffineFamily(A, [A]), [0.1 + 0.2j], target=7.6 - 0.2j)
    for step in point.history:
        assert_type(step.residual, float)
    assert_type(scan_exceptional_points(AffineFamily(A, [A]), (-1 - 1j, 1 + 1j)).points, tuple[ExceptionalPoint, ...])
    jordan_chain(QuadraticPencil(A, A, A), target=-4.4)
