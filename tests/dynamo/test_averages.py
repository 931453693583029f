"""Averages of every kind against plain modules and their definitions."""

import json

import numpy as np
import pytest
import torch
from random_population import make_population, spec
from small_meta import train_meta

from dynamo_dist import InputError
from dynamo_dist.analysis import average, compare_averages
from dynamo_dist.analysis.averaging import average_vectors


def accuracy(logits, part, target):
    return float((logits.argmax(-1) == part.targets[target]).double().mean())


@pytest.fixture(scope="module")
def averaging(sequence_meta, sequence_control):
    return compare_averages(sequence_meta, control=sequence_control)


def test_scores_of_every_way_are_those_of_plain_modules(averaging, sequence_meta, sequence_control, population):
    test = population.data.test
    rows = {row.name: row for row in averaging.rows}
    assert set(rows) == {"perfect gru", "leaky gru", "perfect rnn", "perfect gru + perfect rnn"}
    for row in averaging.rows:
        target = "leaky" if "leaky" in row.name else "perfect"
        logits = []
        for id, base, meta_score in zip(row.ids, row.base, row.meta, strict=True):
            with torch.no_grad():
                logits.append(population.network(id)(test.inputs, test.lengths_N)[1])
            assert base == pytest.approx(accuracy(logits[-1], test, target))
            theta = sequence_meta.embedding[sequence_meta.network_ids.index(id)]
            assert meta_score == pytest.approx(accuracy(sequence_meta.emulate(theta, test.inputs, test.lengths_N)[1], test, target))
        assert row.ensemble == pytest.approx(accuracy(torch.stack(logits).double().mean(dim=0), test, target))
        with torch.no_grad():
            _, at_mean = sequence_meta.network(row.theta)(test.inputs, test.lengths_N)
            _, alone = sequence_control.emulate(np.zeros(3), test.inputs, test.lengths_N)
        assert row.mean_theta == pytest.approx(accuracy(at_mean, test, target))
        assert row.control == pytest.approx(accuracy(alone, test, target))
        assert set(row.other_theta) == {"perfect gru", "leaky gru", "perfect rnn"} - set(row.groups)
        for group, score in row.other_theta.items():
            _, other = sequence_meta.emulate(rows[group].theta, test.inputs, test.lengths_N)
            assert score == pytest.approx(accuracy(other, test, target))


def test_means_of_weights_are_those_of_torch_modules(averaging, population):
    test = population.data.test
    for row in averaging.rows:
        if len(row.groups) == 2:
            assert row.weight_average is None and row.matched_average is None
            assert row.without_weights == "gru-7 and rnn-9 have no weights in common"
            continue
        modules = [population.network(id) for id in row.ids]
        states = [module.state_dict() for module in modules]
        modules[0].load_state_dict({name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]})
        with torch.no_grad():
            _, logits = modules[0](test.inputs, test.lengths_N)
        assert row.weight_average == pytest.approx(accuracy(logits, test, "leaky" if "leaky" in row.name else "perfect"))
        assert 0 <= row.matched_average <= 1 and row.without_weights == ""


def test_what_averages_shows_is_the_same_here(averaging, sequence_meta):
    result, summary = average(sequence_meta), averaging.summary()
    for kind in ("within", "across"):
        for name, score in result[kind].items():
            assert summary[name]["mean_theta"] == pytest.approx(score)
    assert summary["leaky gru"]["random_theta"] == pytest.approx(result["random_theta"]["leaky"])


def test_summary_and_tables_say_the_same(averaging):
    summary, tables = averaging.summary(), averaging.tables()
    json.dumps(summary, allow_nan=False)
    table = tables["averaging"].to_pylist()
    for name, scores in summary.items():
        for method in ("base", "meta", "random_theta", "other_theta"):
            found = [line["score"] for line in table if (line["name"], line["method"]) == (name, method)]
            assert scores[method]["mean"] == pytest.approx(np.mean(found)) and scores[method]["max"] == max(found)
        found = [line["score"] for line in table if (line["name"], line["method"]) == (name, "matched_average")]
        assert found == ([] if scores["matched_average"] is None else [scores["matched_average"]])
    assert [len(theta) for theta in tables["averaging_theta"]["theta"].to_pylist()] == [3] * 4


def test_images_are_averaged_across_architectures(image_meta, image_population):
    test = image_population.data.test
    rows = {row.name: row for row in compare_averages(image_meta).rows}
    assert rows["resnet + cnn"].without_weights == "resnet8-4 and cnn3-4 have no weights in common"
    assert rows["resnet"].control is None
    assert 0 <= rows["resnet"].weight_average <= 1 and 0 <= rows["cnn"].matched_average <= 1
    with torch.no_grad():
        logits = torch.stack([image_population.network(id)(test.inputs)[1] for id in rows["resnet + cnn"].ids])
    assert rows["resnet + cnn"].ensemble == pytest.approx(accuracy(logits.double().mean(dim=0), test, "label"))


@pytest.fixture(scope="module")
def mixed(valence, tmp_path_factory):
    """One group of three networks of which two learned one thing and one another, and one network of a second group."""
    out = tmp_path_factory.mktemp("mixed")
    specs = [spec(f"#{number}", valence, target=target) for number, target in enumerate(("perfect", "perfect", "leaky"))]
    specs.append(spec("other", valence, cell="rnn", target="perfect"))
    return train_meta(make_population(out / "population", specs, valence), out / "meta", steps=2)


def test_one_group_of_two_tasks_is_averaged_task_by_task(mixed):
    vectors = {vector.name: vector for vector in average_vectors(mixed) if vector.kind != "random_theta"}
    assert set(vectors) == {"gru (perfect)", "gru (leaky)", "rnn", "gru (perfect) + rnn"}
    assert np.allclose(vectors["gru (perfect)"].theta, mixed.embedding[:2].mean(axis=0))
    assert np.allclose(vectors["gru (leaky)"].theta, mixed.embedding[2])
    assert vectors["gru (leaky)"].target == "leaky"


def test_two_groups_count_the_same_whatever_their_sizes(mixed, valence):
    row = {row.name: row for row in compare_averages(mixed).rows}["gru (perfect) + rnn"]
    assert np.allclose(row.theta, (mixed.embedding[:2].mean(axis=0) + mixed.embedding[3]) / 2)
    with torch.no_grad():
        logits = [mixed.population.network(id)(valence.test.inputs, valence.test.lengths_N)[1] for id in ("#0", "#1", "other")]
    assert row.ensemble == pytest.approx(accuracy(logits[0] / 4 + logits[1] / 4 + logits[2] / 2, valence.test, "perfect"))


def test_a_control_with_theta_is_refused(sequence_meta):
    with pytest.raises(InputError, match="is no control of"):
        compare_averages(sequence_meta, control=sequence_meta)
