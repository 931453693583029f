"""Scores against plain modules and scikit-learn; averages against the definition."""

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from dynamo_dist import MetaModel, MetaModelConfig
from dynamo_dist.analysis import average, cluster, emulate_shard, emulation, merge, scores_at
from dynamo_dist.analysis.averaging import average_vectors
from dynamo_dist.analysis.clustering import adjusted_rand
from dynamo_dist.metamodel import folder
from dynamo_dist.metamodel.shard import Alone
from dynamo_dist.metamodel.training import TrainingJob, train_shard


@pytest.fixture(scope="module")
def meta(population, tmp_path_factory):
    out = tmp_path_factory.mktemp("meta")
    config = MetaModelConfig(dimensions=3, hidden=10, embedding=4, steps=60, batch=16)
    folder.prepare(out, population, config)
    train_shard(TrainingJob(population=str(population.path), out=str(out), config=config), group=Alone())
    return MetaModel.open(out)


def test_scores_are_those_of_plain_modules(meta, population):
    scores = emulation(meta)
    test = population.data.test
    for m, id in enumerate(scores.ids):
        with torch.no_grad():
            h_BTH, logits = population.network(id)(test.inputs, test.lengths_N)
        states, meta_logits = meta.emulate(meta.embedding[m], test.inputs, test.lengths_N)
        weight, bias = meta.state_map(id).weight[0], meta.state_map(id).bias[0]
        valid = torch.arange(test.inputs.shape[1]) < test.lengths_N[:, None]
        truth, guess = h_BTH[valid].double().numpy(), (states @ weight + bias)[valid].double().numpy()
        # Variance-weighted R^2 is 1 - SSE / SST over all units.
        assert scores.hidden_r2[m] == pytest.approx(r2_score(truth, guess, multioutput="variance_weighted"), abs=1e-5)
        assert (scores.networks[m].base_class == logits.argmax(-1).numpy()).all()
        assert (scores.networks[m].meta_class == meta_logits.argmax(-1).numpy()).all()
        labels = test.targets[population.spec(id).target]
        assert scores.score[m] == pytest.approx(float((meta_logits.argmax(-1) == labels).double().mean()))
        kl = torch.nn.functional.kl_div(meta_logits.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="batchmean")
        assert scores.output_kl[m] == pytest.approx(float(kl), rel=1e-3, abs=1e-6)


def test_shards_scored_apart_are_the_whole(meta):
    whole = emulation(meta)
    parts = [emulate_shard(str(meta.path), meta.network_ids[piece::4]) for piece in range(4)]
    again = merge(parts, meta.network_ids)
    assert again.ids == whole.ids
    assert np.allclose(again.hidden_r2, whole.hidden_r2, atol=1e-6)
    for ours, theirs in zip(again.networks, whole.networks, strict=True):
        assert (ours.base_class == theirs.base_class).all() and (ours.meta_class == theirs.meta_class).all()


def test_disputed_inputs_are_those_that_divide_the_base_networks(meta):
    scores = emulation(meta)
    divided = [len(set(column)) > 1 for column in np.stack([network.base_class for network in scores.networks]).T]
    ((_, disputed),) = scores.disputed.items()
    assert disputed.tolist() == divided and 0 < sum(divided) < len(divided)
    for m, network in enumerate(scores.networks):
        agree = [network.base_class[n] == network.meta_class[n] for n in range(len(divided)) if divided[n]]
        assert scores.disputed_agreement[m] == pytest.approx(np.mean(agree))


def test_adjusted_rand_knows_separate_and_mixed_clusters():
    rng = np.random.default_rng(0)
    separate = np.concatenate([rng.normal(0, 0.1, (10, 4)), rng.normal(3, 0.1, (10, 4))])
    assert adjusted_rand(separate, ["a"] * 10 + ["b"] * 10) == 1.0
    assert abs(adjusted_rand(separate, ["a", "b"] * 10)) < 0.2


def test_cluster_judges_computation_and_architecture(meta):
    result = cluster(meta)
    assert set(result) == {"adjusted_rand", "adjusted_rand_architecture"}
    assert all(-1 <= value <= 1 for value in result.values())


def test_averages_are_the_means_of_groups_and_pairs(meta, population):
    groups = {spec.group: [m for m, s in enumerate(population.specs) if s.group == spec.group] for spec in population.specs}
    vectors = {(vector.kind, vector.name): vector.theta for vector in average_vectors(meta)}
    for name, rows in groups.items():
        assert np.allclose(vectors["within", name], meta.embedding[rows].mean(axis=0))
    both = groups["perfect gru"], groups["perfect rnn"]
    assert np.allclose(
        vectors["across", "perfect gru + perfect rnn"], np.mean([meta.embedding[rows].mean(axis=0) for rows in both], axis=0)
    )
    # Groups that learned different labels have no common average.
    assert [name for kind, name in vectors if kind == "across"] == ["perfect gru + perfect rnn"]
    result = average(meta)
    test = population.data.test
    _, logits = meta.emulate(vectors["within", "leaky gru"], test.inputs, test.lengths_N)
    assert result["within"]["leaky gru"] == pytest.approx(float((logits.argmax(-1) == test.targets["leaky"]).double().mean()))
    assert set(result["random_theta"]) == {"perfect", "leaky"}


def test_scores_at_vectors_are_accuracies_of_the_target(meta, population):
    test = population.data.test
    for target in ("perfect", "leaky"):
        scores = scores_at(str(meta.path), "data", target, meta.embedding[:2])
        for theta, score in zip(meta.embedding[:2], scores, strict=True):
            _, logits = meta.emulate(theta, test.inputs, test.lengths_N)
            assert score == pytest.approx(float((logits.argmax(-1) == test.targets[target]).double().mean()))
