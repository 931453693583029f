"""Word vectors from the networks against an ordinary singular value decomposition."""

import dataclasses

import numpy as np
import pytest
import torch
from test_metamodel import CONFIG

from dynamo_dist.metamodel import folder
from dynamo_dist.metamodel.words import word_vectors


def test_word_vectors_are_the_principal_components_of_what_networks_do_with_each_word(population):
    config = dataclasses.replace(CONFIG, embedding=3)
    ids = population.network_ids
    vectors = word_vectors(population, ids, folder.interface_of(population, ids, config), config).numpy()
    data = population.data
    columns = []
    for id in ids:
        with torch.no_grad():
            h_BTH, _ = population.network(id).double()(torch.arange(data.vocabulary)[:, None], torch.ones(data.vocabulary, dtype=torch.long))
        h = h_BTH[:, 0].numpy()
        h = h - h.mean(axis=0)
        columns.append(h / np.sqrt((h**2).mean()))
    part = data.meta
    words = np.concatenate([part.inputs[n, : part.lengths_N[n]].numpy() for n in range(len(part))])
    frequency = np.bincount(words, minlength=data.vocabulary) / len(words)
    x = np.concatenate(columns, axis=1)
    x = x - frequency @ x
    left, _, _ = np.linalg.svd(np.sqrt(frequency)[:, None] * x, full_matrices=False)
    seen = frequency > 0
    for e in range(3):
        expected = left[seen, e] / np.sqrt(frequency[seen])
        sign = np.sign(expected @ vectors[seen, e])
        assert np.allclose(sign * vectors[seen, e], expected, atol=1e-8)
        assert (frequency * vectors[:, e] ** 2).sum() == pytest.approx(1)


def test_features_that_no_component_takes_stay_as_they_were_drawn(population):
    from test_metamodel import dynamics

    ours = dynamics(CONFIG)
    before = ours.embedding.detach().clone()
    vectors = torch.zeros(7, 4, dtype=torch.float64)
    vectors[:, :2] = torch.randn(7, 2)
    ours.start_words(vectors)
    assert torch.equal(ours.embedding[:, :2], vectors[:, :2]) and torch.equal(ours.embedding[:, 2:], before[:, 2:])


def test_alphabets_that_lie_side_by_side_have_vectors_of_their_own(population):
    ids = population.network_ids
    interface = folder.interface_of(population, ids, CONFIG)
    own = word_vectors(population, ids, interface, CONFIG)
    shifted = dataclasses.replace(interface, vocabulary=interface.vocabulary + 5, first_id={"data": 5})
    assert torch.equal(word_vectors(population, ids, shifted, CONFIG)[5:], own)
    assert not word_vectors(population, ids, shifted, CONFIG)[:5].any()
