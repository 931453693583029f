"""The landscape against one vector at a time and against scikit-learn."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from random_population import make_population, spec
from sklearn.decomposition import PCA
from small_meta import train_meta

from dynamo_dist import InputError, MetaModel
from dynamo_dist.analysis import landscape


@pytest.fixture(scope="module")
def found(sequence_meta):
    return landscape(sequence_meta, target="perfect", points=4, inputs=1000)


def accuracy_at(meta, theta, part, target):
    _, logits = meta.emulate(theta, part.inputs, part.lengths_N)
    return float((logits.argmax(-1) == part.targets[target]).double().mean())


def test_points_of_the_grid_are_vectors_of_the_meta_model(found, sequence_meta, population):
    data = population.data
    for row in range(4):
        for column in range(4):
            theta = found.mean + found.u[row] * found.directions[0] + found.v[column] * found.directions[1]
            assert np.allclose(theta, found.theta(row, column))
            assert found.test[row, column] == pytest.approx(accuracy_at(sequence_meta, theta, data.test, "perfect"))
            assert found.labelled[row, column] == pytest.approx(accuracy_at(sequence_meta, theta, data.base, "perfect"))
    assert found.mean_score == pytest.approx(accuracy_at(sequence_meta, sequence_meta.embedding.mean(axis=0), data.test, "perfect"))


def test_the_plane_is_that_of_scikit_learn(found, sequence_meta):
    pca = PCA(2).fit(sequence_meta.embedding)
    assert np.allclose(np.abs(pca.components_ @ found.directions.T), np.eye(2), atol=1e-6)
    assert found.variance == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-6)
    projected = pca.inverse_transform(pca.transform(sequence_meta.embedding))
    assert np.allclose(found.distance, np.linalg.norm(sequence_meta.embedding - projected, axis=1), atol=1e-6)
    assert np.allclose(found.mean + found.coordinates @ found.directions, projected, atol=1e-6)
    low, high = found.coordinates.min(axis=0), found.coordinates.max(axis=0)
    for axis, grid in enumerate((found.u, found.v)):
        assert grid[0] == pytest.approx(low[axis] - (high - low)[axis] / 4) and grid[-1] == pytest.approx(high[axis] + (high - low)[axis] / 4)


def test_networks_have_their_own_scores(found, sequence_meta, population):
    test = population.data.test
    assert found.ids == sequence_meta.network_ids
    for row, id in enumerate(found.ids):
        with torch.no_grad():
            _, logits = population.network(id)(test.inputs, test.lengths_N)
        if "leaky" in id:
            assert np.isnan(found.base[row])
        else:
            assert found.base[row] == pytest.approx(float((logits.argmax(-1) == test.targets["perfect"]).double().mean()))
        assert found.meta[row] == pytest.approx(accuracy_at(sequence_meta, sequence_meta.embedding[row], test, "perfect"))
        on_plane = found.mean + found.coordinates[row] @ found.directions
        assert found.projected[row] == pytest.approx(accuracy_at(sequence_meta, on_plane, test, "perfect"))


def test_no_test_label_chooses(found, sequence_meta):
    assert found.labelled[found.best] == found.labelled.max()
    other = MetaModel.open(sequence_meta.path)
    data = other.population.data
    wrong = dataclasses.replace(data.test, targets={name: 1 - labels for name, labels in data.test.targets.items()})
    other.population.datasets["data"] = dataclasses.replace(data, test=wrong)
    again = landscape(other, target="perfect", points=4, inputs=1000)
    assert np.allclose(again.test, 1 - found.test) and again.best == found.best


def test_directions_of_ones_own(sequence_meta):
    a, b = sequence_meta.embedding[0], sequence_meta.embedding[3]
    own = landscape(sequence_meta, target="leaky", directions=np.stack([3 * a, b]), points=2, inputs=20)
    assert np.allclose(own.directions @ own.directions.T, np.eye(2))
    assert np.allclose(own.directions[0], a / np.linalg.norm(a)) and own.directions[1] @ b > 0
    assert np.linalg.matrix_rank(np.concatenate([own.directions, a[None], b[None]]), tol=1e-6) == 2
    assert own.test_inputs == own.labelled_inputs == 20


def test_summary_and_tables_say_the_same(found):
    summary, tables = found.summary(), found.tables()
    json.dumps(summary, allow_nan=False)
    points = tables["landscape"].to_pylist()
    (best,) = [point for point in points if point["best"]]
    assert len(points) == 16 and (best["test"], best["u"]) == (summary["best"]["test"], summary["best"]["u"])
    assert summary["grid"]["max"] == max(point["test"] for point in points)
    networks = tables["landscape_networks"].to_pylist()
    assert [line["base"] is None for line in networks] == ["leaky" in id for id in found.ids]
    known = [line["base"] for line in networks if line["base"] is not None]
    assert summary["base"]["max"] == max(known) and summary["base"]["mean"] == pytest.approx(np.mean(known))


def test_images_have_a_landscape(image_meta, image_population):
    found = landscape(image_meta, points=3, inputs=60)
    test = image_population.data.test.select(torch.from_numpy(np.sort(np.random.default_rng(0).choice(150, 60, replace=False))))
    _, logits = image_meta.emulate(found.theta(0, 2), test.inputs)
    assert found.test[0, 2] == pytest.approx(float((logits.argmax(-1) == test.targets["label"]).double().mean()))


def refused(meta, sentence, **options):
    with pytest.raises(InputError, match=sentence):
        landscape(meta, **{"target": "perfect", "points": 2, "inputs": 5} | options)


def test_what_has_no_plane_is_refused(sequence_meta, sequence_control, valence, tmp_path):
    refused(sequence_meta, r"directions have shape \(2, 4\): expected \(2, 3\)", directions=np.ones((2, 4)))
    refused(sequence_meta, r"directions have shape \(3,\): expected", directions=np.ones(3))
    refused(sequence_meta, "parallel or zero", directions=np.array([[1.0, 2, 3], [-2, -4, -6]]))
    refused(sequence_meta, "parallel or zero", directions=np.array([[0.0, 0, 0], [1, 0, 0]]))
    refused(sequence_meta, "not all finite", directions=np.array([[np.nan, 0, 0], [1, 0, 0]]))
    refused(sequence_meta, "fits several tasks", target=None)
    refused(sequence_meta, "names no task", target="sum")
    refused(sequence_meta, "expected at least 2 points", points=1)
    refused(sequence_control, "all vectors are the same")
    two = make_population(tmp_path / "two", [spec(f"#{n}", valence, target="perfect") for n in range(2)], valence)
    refused(train_meta(two, tmp_path / "meta", steps=2), "2 networks in 3 dimensions lie in no plane")
    three = make_population(tmp_path / "three", [spec(f"#{n}", valence, target="perfect") for n in range(3)], valence)
    refused(train_meta(three, tmp_path / "line", steps=2, dimensions=1), "3 networks in 1 dimensions lie in no plane")
