"""Scores against scikit-learn, distances against plain modules and single emulations, tables against the numbers behind them."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from random_population import make_population, spec
from scipy.stats import kstest
from sklearn.metrics import silhouette_score
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from dynamo_dist import InputError, MetaModel, MetaModelConfig
from dynamo_dist.analysis import similarity, stability
from dynamo_dist.analysis.comparison import comparable, mds, score, silhouettes
from dynamo_dist.analysis.distances import MEASURES, baselines, discordance, pulled_back
from dynamo_dist.analysis.responses import Sample
from dynamo_dist.analysis.stability import aligned_correlation, distance_correlation
from dynamo_dist.data import Output
from dynamo_dist.data.attractors import FlipFlopTask, SineTask, make_flip_flop, make_sine
from dynamo_dist.data.images import DigitsTask, make_digits
from dynamo_dist.metamodel import folder
from dynamo_dist.metamodel.shard import Alone
from dynamo_dist.metamodel.training import TrainingJob, train_shard
from dynamo_dist.networks import Convolutional
from dynamo_dist.population import NetworkSpec, Population
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import LocalRuntime


def trained(population, out, **fields):
    config = MetaModelConfig(**{"dimensions": 3, "hidden": 10, "embedding": 4, "steps": 40, "batch": 16, **fields})
    folder.prepare(out, population, config)
    train_shard(TrainingJob(population=str(population.path), out=str(out), config=config), group=Alone())
    return MetaModel.open(out)


@pytest.fixture(scope="module")
def metas(population, tmp_path_factory):
    out = tmp_path_factory.mktemp("metas")
    return [trained(population, out / str(seed), seed=seed, dimensions=3 + seed) for seed in range(2)]


def points(seed, count=24, labels=3, apart=1.5):
    """Points in the plane and their labels; clusters that overlap."""
    rng = np.random.default_rng(seed)
    label = np.arange(count) % labels
    x = rng.normal(size=(count, 2)) + apart * rng.normal(size=(labels, 2))[label]
    return np.linalg.norm(x[:, None] - x, axis=-1), x, [f"label {k}" for k in label]


# ---- scores ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_scikit_learn(seed):
    distance, _, labels = points(seed)
    found = score(distance, labels)
    assert found.silhouette == pytest.approx(silhouette_score(distance, labels, metric="precomputed"))
    classifier = KNeighborsClassifier(1, metric="precomputed")
    assert found.nearest_neighbour == pytest.approx(cross_val_score(classifier, distance, labels, cv=LeaveOneOut()).mean())
    assert found.networks == 24


def test_silhouettes_of_many_labellings_are_those_of_each():
    distance, _, _ = points(0, labels=4)
    codes = np.random.default_rng(1).integers(0, 4, (30, 24))
    codes[0], codes[0, 5] = 0, 1  # a label with one network
    for found, own in zip(silhouettes(distance, codes), codes, strict=True):
        assert found == pytest.approx(silhouette_score(distance, own, metric="precomputed"))


def test_clusters_that_lie_apart_are_found_and_labels_that_mean_nothing_are_not():
    distance, _, labels = points(0, apart=40)
    found = score(distance, labels)
    assert found.adjusted_rand == 1.0 and found.nearest_neighbour == 1.0 and found.silhouette > 0.8 and found.p_value == 0.001
    mixed = score(distance, np.random.default_rng(0).permutation(labels))
    assert abs(mixed.adjusted_rand) < 0.25 and mixed.p_value > 0.01


def test_p_values_are_uniform_where_labels_mean_nothing():
    rng = np.random.default_rng(0)
    values = []
    for _ in range(100):
        x = rng.normal(size=(14, 3))
        values.append(score(np.linalg.norm(x[:, None] - x, axis=-1), list("aabbb" * 2 + "aabb")).p_value)
    assert kstest(values, "uniform").pvalue > 0.01 and min(values) >= 0.001


def test_coordinates_of_euclidean_distances_are_the_points():
    distance, x, _ = points(2)
    found = mds(distance)
    assert found.shape == (24, 2)
    assert np.allclose(np.linalg.norm(found[:, None] - found, axis=-1), distance)
    assert aligned_correlation(found, x) == pytest.approx(1)
    assert mds(np.zeros((3, 3))).shape == (3, 2) and mds(np.zeros((1, 1))).shape == (1, 2)


def test_what_is_not_defined_between_all_is_scored_where_it_is():
    distance, _, labels = points(0)
    parts = np.arange(24) % 4 < 2
    partial = np.where(parts[:, None] == parts, distance, np.nan)
    assert [rows.tolist() for rows in comparable(partial)] == [np.flatnonzero(parts).tolist(), np.flatnonzero(~parts).tolist()]
    found = score(partial, labels)
    both = [score(distance[np.ix_(rows, rows)], np.array(labels)[rows]) for rows in (parts, ~parts)]
    assert found.silhouette == pytest.approx(np.mean([one.silhouette for one in both])) and found.networks == 24
    # A set with one label says nothing, and is not counted.
    one_label = score(partial, ["a" if part else label for part, label in zip(parts, labels, strict=True)])
    assert one_label.networks == 12 and one_label.silhouette == pytest.approx(both[1].silhouette)
    nothing = score(np.where(np.eye(24) > 0, 0.0, np.nan), labels)
    assert nothing.networks == 0 and np.isnan([nothing.silhouette, nothing.adjusted_rand, nothing.nearest_neighbour, nothing.p_value]).all()


def test_networks_that_are_all_equal_have_no_clusters():
    found = score(np.zeros((6, 6)), list("aaabbb"))
    assert found.silhouette == 0 and found.adjusted_rand == 0 and found.p_value == 1


# ---- distances -------------------------------------------------------------------------------------------------------------


def test_theta_and_outputs_and_weights_are_plain_distances(metas, population):
    found = similarity(metas[:1], measures=("theta", "outputs", "weights"))
    by_measure = {one.measure: one.distance for one in found.comparisons}
    test = population.data.test
    networks = [population.network(id) for id in found.ids]
    with torch.no_grad():
        answers = [network(test.inputs, test.lengths_N)[1].argmax(-1).numpy() for network in networks]
    flat = [torch.cat([p.detach().flatten() for p in network.parameters()]).double().numpy() for network in networks]
    for m in range(6):
        for n in range(6):
            assert by_measure["theta"][m, n] == pytest.approx(np.linalg.norm(metas[0].embedding[m] - metas[0].embedding[n]))
            assert by_measure["outputs"][m, n] == pytest.approx((answers[m] != answers[n]).mean())
            if len(flat[m]) == len(flat[n]):
                assert by_measure["weights"][m, n] == pytest.approx(np.linalg.norm(flat[m] - flat[n]), rel=1e-6)
            else:
                assert np.isnan(by_measure["weights"][m, n])


def test_representations_are_those_of_plain_modules_on_the_sample(population):
    """Angular Procrustes of states that plain modules give at the sampled steps of the whole test part, never of padding."""
    found = baselines(population, population.network_ids, ("procrustes", "dsa"), seed=3)
    test = population.data.test
    sample = Sample.of(test, seed=3, inputs=1000, rows=4000)
    inputs, steps = sample.input_R, sample.step_R
    assert len(sample.examples) == 200 and len(inputs) == int(test.lengths_N.sum()) and (steps < sample.examples.lengths_N[inputs]).all()
    states = []
    for id in population.network_ids:
        with torch.no_grad():
            h = population.network(id)(sample.examples.inputs, sample.examples.lengths_N)[0][inputs, steps].double().numpy()
        h -= h.mean(axis=0)
        states.append(h / np.linalg.norm(h))
    for m in range(6):
        for n in range(m):
            nuclear = np.linalg.svd(states[m].T @ states[n])[1].sum()
            assert found["procrustes"][m, n] == pytest.approx(np.arccos(min(nuclear, 1)), abs=1e-4)
    assert np.isfinite(found["dsa"]).all() and (found["dsa"] == found["dsa"].T).all()


def test_the_sample_is_bounded_and_drawn_from_the_seed(population):
    test = population.data.test
    one, same, other = (Sample.of(test, seed=seed, inputs=20, rows=50) for seed in (1, 1, 2))
    assert len(one.examples) == 20 and len(one.input_R) == len(set(zip(one.input_R.tolist(), one.step_R.tolist(), strict=True))) == 50
    assert torch.equal(one.examples.inputs, same.examples.inputs) and torch.equal(one.step_R, same.step_R)
    assert not torch.equal(one.step_R, other.step_R)


def test_concordance_of_values():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(500, 2))
    found = discordance(np.stack([base, base, base + 1.0, rng.normal(size=(500, 2)), -base]))
    assert found[0, 1] == 0 and found[0, 3] == pytest.approx(1, abs=0.1) and found[0, 4] == pytest.approx(2, abs=0.01)
    # Lin (1989) of one output: 2 cov / (var + var + (mean - mean)^2).
    a, b = base[:, :1], base[:, :1] * 0.5 + base[:, 1:]
    lin = 2 * np.cov(a.T, b.T, ddof=0)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    assert discordance(np.stack([a, b]))[0, 1] == pytest.approx(1 - lin)


@pytest.mark.parametrize("conditioning", ["concat", "lowrank", "film"])
def test_the_pulled_back_distance_is_that_of_single_steps_of_the_meta_model(population, tmp_path, conditioning):
    meta = trained(population, tmp_path / "meta", conditioning=conditioning, steps=10)
    found = pulled_back(meta, seed=5)
    test = population.data.test
    sample = Sample.of(test, seed=5, inputs=64, rows=256)
    part = sample.examples
    cells = [meta.network(theta, like=meta.network_ids[0]) for theta in meta.embedding]
    with torch.no_grad():
        states = [cell(part.inputs, part.lengths_N)[0] for cell in cells]
        for m, n in ((0, 1), (2, 5), (4, 3)):
            total = 0.0
            for visited, cell in ((states[m], cells[m]), (states[n], cells[n])):
                start = cell.initial_state.expand(len(part), 1, -1)
                before = torch.cat([start, visited[:, :-1]], dim=1)[sample.input_R, sample.step_R]
                token = part.inputs[sample.input_R, sample.step_R]
                after = [cells[k].cell(cells[k].embedding(token), before) for k in (m, n)]
                total += float((after[0] - after[1]).norm(dim=-1).mean()) / 2
            assert found[m, n] == pytest.approx(total, rel=1e-4, abs=1e-6)
    assert (found == found.T).all() and (np.diag(found) == 0).all() and found[0, 1] > 0


def test_equal_vectors_are_no_distance_apart_and_unlike_data_sets_are_compared_by_what_needs_no_common_inputs(tmp_path):
    parts = {"base": 40, "meta": 40, "test": 30}
    data = {"flips": make_flip_flop(FlipFlopTask(**parts, steps=12)), "sine": make_sine(SineTask(**parts, steps=10))}
    specs = [
        spec(f"{name} {cell} {n}", data[name], name=name, cell=cell, hidden=5 + n)
        for name in data
        for cell in ("gru", "lstm")
        for n in range(2)
    ]
    population = make_population(tmp_path / "p", specs, data)
    meta = trained(population, tmp_path / "meta", unlike_tasks="pad", steps=5)
    found = {one.measure: one for one in similarity([meta]).comparisons}
    assert list(found) == list(MEASURES)
    of_data = np.array([one.data for one in (population.spec(id) for id in meta.network_ids)])
    same = of_data[:, None] == of_data
    for measure in ("theta", "pulled_back", "dsa"):
        assert np.isfinite(found[measure].distance).all() and found[measure].scores.networks == 8
    for measure in ("cka", "svcca", "pwcca", "procrustes", "outputs"):
        assert (np.isfinite(found[measure].distance) == same).all()
        # Scored within each data set, where gru and lstm are to be told apart.
        assert found[measure].scores.networks == 8 and np.isfinite(found[measure].scores.silhouette)
    # No two of these have one architecture.
    assert found["weights"].scores.networks == 0 and np.isnan(found["weights"].scores.p_value)


def test_answers_of_unlike_kinds_are_not_compared(tmp_path):
    """Networks that are fed the same inputs, of which some answer with a class and some with values."""
    data = make_flip_flop(FlipFlopTask(base=8, meta=8, test=30, steps=12, bits=2))
    parts = {}
    for part in data.PARTS:
        examples = getattr(data, part)
        first = (examples.targets["state"][..., 0] > 0).long()
        parts[part] = dataclasses.replace(examples, targets=examples.targets | {"first": first})
    both = dataclasses.replace(data, outputs=data.outputs | {"first": Output(kind="classes", size=2, every_step=True)}, **parts)
    ids = ["class a", "value a", "class b", "value b"]
    specs = [spec(id, both, target="first" if "class" in id else "state") for id in ids]
    population = make_population(tmp_path / "p", specs, both)
    found = baselines(population, ids, ("outputs", "cka"))
    kind = np.array(["class" in id for id in ids])
    assert (np.isfinite(found["outputs"]) == (kind[:, None] == kind)).all() and np.isfinite(found["cka"]).all()
    with torch.no_grad():
        a, b = (population.network(id)(both.test.inputs)[1].argmax(-1) for id in ("class a", "class b"))
        x, y = (population.network(id)(both.test.inputs)[1].flatten(0, 1).double().numpy() for id in ("value a", "value b"))
    assert found["outputs"][0, 2] == pytest.approx(float((a != b).double().mean()))
    square = ((x - y) ** 2).mean(axis=0).sum()
    unrelated = x.var(axis=0).sum() + y.var(axis=0).sum() + ((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum()
    assert found["outputs"][1, 3] == found["outputs"][3, 1] == pytest.approx(square / unrelated, rel=1e-5)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """ResNets and CNNs of several depths and widths and their meta-model, hardly trained."""
    out, data = tmp_path_factory.mktemp("images"), make_digits(DigitsTask())
    shapes = [("resnet", 8, 4), ("resnet", 8, 4), ("resnet", 34, 2), ("cnn", 3, 4)]
    specs = [
        NetworkSpec(
            id=f"{kind}{depth} #{n}", group=kind, computation=kind, target="label", seed=n, samples=64, batch=32, epochs=1,
            architecture=Convolutional(kind=kind, depth=depth, width=width, channels=1, outputs=10),
        )
        for n, (kind, depth, width) in enumerate(shapes)
    ]  # fmt: skip
    store = Population.create(out / "p", specs, data)
    train_remaining(store, LocalRuntime())
    return trained(Population.open(out / "p"), out / "meta", hidden=4, steps=3)


def test_images_are_compared_by_the_stages_of_networks(images):
    found = similarity([images], measures=[measure for measure in MEASURES if measure != "weights"])
    # Depth is no time: DSA is not defined.
    assert {one.measure for one in found.comparisons} == set(MEASURES) - {"dsa", "weights"}
    population, by_measure = images.population, {one.measure: one.distance for one in found.comparisons}
    sample = Sample.of(population.data.test, seed=0)
    pooled = []
    for id in images.network_ids:
        with torch.no_grad():
            stages, _ = population.network(id)(sample.examples.inputs)
        own = [stage.mean(dim=(2, 3)).double().numpy() for stage in stages[:-1]]
        pooled.append([own[1], own[2], own[3]] if len(own) == 4 else own)  # of ResNet34 the stages of relative depth 1/3, 2/3 and 1
    for m, n in zip(*np.triu_indices(4, 1), strict=True):
        angles = []
        for a, b in zip(pooled[m], pooled[n], strict=True):
            a, b = (x - x.mean(axis=0) for x in (a, b))
            angles.append(np.arccos(np.linalg.svd(a.T @ b)[1].sum() / np.linalg.norm(a) / np.linalg.norm(b)))
        assert by_measure["procrustes"][m, n] == pytest.approx(np.mean(angles), abs=1e-4)


def test_the_pulled_back_distance_of_images_is_that_of_the_stages(images):
    found = pulled_back(images)
    sample = Sample.of(images.population.data.test, seed=0, inputs=64)
    stages, _ = images.emulate(images.embedding, sample.examples.inputs)
    for m, n in ((0, 1), (1, 3)):
        each = []
        for stage in stages:
            scale = (stage - stage.mean(dim=(0, 1))).square().sum() / stage.shape[0] / stage.shape[1]
            each.append(float((stage[m] - stage[n]).flatten(1).norm(dim=1).mean() / scale.sqrt()))
        assert found[m, n] == pytest.approx(np.mean(each), rel=1e-3)


# ---- results ---------------------------------------------------------------------------------------------------------------


def test_the_summary_and_the_tables_are_the_numbers_of_every_meta_model(metas):
    found = similarity(metas)
    tables, summary = found.tables(), found.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary and summary["networks"] == 6 and summary["meta_models"] == 2
    assert list(summary["measures"]) == list(MEASURES)
    scores = tables["scores"].to_pylist()
    assert [row["meta"] for row in scores if row["measure"] == "theta"] == [0, 1]
    assert [row["meta"] for row in scores if row["measure"] == "cka"] == [None]
    theta = [row["silhouette"] for row in scores if row["measure"] == "theta"]
    assert summary["measures"]["theta"]["silhouette"] == pytest.approx(np.mean(theta))
    assert summary["measures"]["theta"]["silhouette_sd"] == pytest.approx(np.std(theta, ddof=1))
    assert summary["measures"]["cka"]["silhouette_sd"] is None and summary["measures"]["theta"]["meta_models"] == 2
    labels = [one for one in found.computations]
    assert theta[1] == pytest.approx(silhouette_score(metas[1].embedding, labels))
    # Vanilla RNNs all compute the same, so weights, which are compared within an architecture, are scored of the GRUs alone.
    assert summary["measures"]["weights"]["networks"] == 4
    distances = tables["distances"].to_pylist()
    assert len(distances) == (2 * 2 + 7) * 15
    one = next(row for row in distances if row["measure"] == "theta" and row["meta"] == 1)
    place = {id: m for m, id in enumerate(found.ids)}
    a, b = (metas[1].embedding[place[one[end]]] for end in ("first", "second"))
    assert one["distance"] == pytest.approx(np.linalg.norm(a - b))
    assert any(row["distance"] is None for row in distances if row["measure"] == "weights")
    coordinates = tables["coordinates"].to_pylist()
    assert len(coordinates) == (2 * 2 + 7) * 6 and {row["set"] for row in coordinates if row["measure"] == "weights"} == {0, 1}
    assert all(np.isfinite([row["x"], row["y"]]).all() for row in coordinates)


def test_the_same_question_has_the_same_answer(metas):
    measures = ("theta", "pulled_back", "cka", "outputs")
    first, second = (similarity(metas[:1], measures=measures, seed=4) for _ in range(2))
    assert first.summary() == second.summary()


def test_wrong_requests_are_refused(metas, population, tmp_path):
    with pytest.raises(InputError, match="there are no meta-models"):
        similarity([])
    with pytest.raises(InputError, match="there is no measure 'cosine'"):
        similarity(metas, measures=("cosine",))
    few = make_population(tmp_path / "few", [spec(str(n), population.data) for n in range(2)], population.data)
    with pytest.raises(InputError, match="embeds 2 networks: comparisons need at least 3"):
        similarity([trained(few, tmp_path / "meta few", steps=2)])
    alike = make_population(tmp_path / "alike", [spec(str(n), population.data) for n in range(3)], population.data)
    meta = trained(alike, tmp_path / "meta alike", steps=2)
    with pytest.raises(InputError, match="all compute 'gru'"):
        similarity([meta])
    for compare in (similarity, stability):
        with pytest.raises(InputError, match="compare meta-models of one population"):
            compare([metas[0], meta])
    with pytest.raises(InputError, match="cannot be compared with itself"):
        stability(metas[:1])


# ---- stability -------------------------------------------------------------------------------------------------------------


def test_embeddings_that_differ_by_a_change_of_coordinates_agree():
    x = np.random.default_rng(0).normal(size=(12, 3))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    moved = 5 * x @ rotation + 2
    assert aligned_correlation(x, moved) == pytest.approx(1) and distance_correlation(x, moved) == pytest.approx(1)
    wider = np.pad(moved, ((0, 0), (0, 2)))
    assert aligned_correlation(x, wider) == pytest.approx(1)
    other = np.random.default_rng(2).normal(size=(12, 3))
    assert aligned_correlation(x, other) < 0.8 and abs(distance_correlation(x, other)) < 0.5
    assert np.isnan(aligned_correlation(x, np.ones((12, 3)))) and np.isnan(distance_correlation(x, np.ones((12, 3))))


def test_the_aligned_correlation_is_that_of_scipy():
    from scipy.spatial import procrustes

    x, y = np.random.default_rng(0).normal(size=(2, 10, 4))
    a, b, _ = procrustes(x, y)
    assert aligned_correlation(x, y) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def test_stability_is_over_all_pairs_of_meta_models(metas):
    found = stability([*metas, metas[0]])
    assert found.pairs == ((0, 1), (0, 2), (1, 2))
    assert found.aligned_correlation[1] == pytest.approx(1) and found.distance_correlation[1] == pytest.approx(1)
    assert found.aligned_correlation[0] == pytest.approx(found.aligned_correlation[2]) and 0 < found.aligned_correlation[0] < 1
    summary = found.summary()
    assert summary["pairs"] == 3 and summary["distance_correlation"] == pytest.approx(found.distance_correlation.mean())
    assert found.tables()["stability"].to_pylist()[1] == pytest.approx(
        {"first": 0, "second": 2, "aligned_correlation": 1.0, "distance_correlation": 1.0}
    )


def test_the_rand_index_of_theta_is_that_of_k_means_on_the_vectors(metas):
    from dynamo_dist.analysis.clustering import adjusted_rand

    found = similarity(metas, measures=("theta",))
    for meta, one in zip(metas, found.comparisons, strict=True):
        assert one.scores.adjusted_rand == pytest.approx(adjusted_rand(meta.embedding, found.computations))
