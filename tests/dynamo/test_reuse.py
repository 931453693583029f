"""Networks that another population has already are not trained again, and what is damaged or failed is not taken."""

import dataclasses

import pytest
import torch
from small_population import make_specs

from dynamo_dist import Population
from dynamo_dist.cli import main
from dynamo_dist.population.reuse import reuse
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.population.work import commit_failure
from dynamo_dist.runtime import LocalRuntime


@pytest.fixture
def fresh(valence, tmp_path):
    return Population.create(tmp_path / "fresh", make_specs(valence), valence)


def test_the_same_networks_are_taken_as_they_are(population, fresh):
    assert reuse(fresh, [population.path]) == {population.path: len(population)}
    assert fresh.remaining() == [] and fresh.table() == population.table()
    for ours, theirs in zip(Population.open(fresh.path).stacks(), population.stacks(), strict=True):
        assert all(torch.equal(ours.networks.tensors[name], p) for name, p in theirs.networks.tensors.items())
    assert reuse(fresh, [population.path]) == {}  # nothing is left to take


def test_others_are_trained(population, valence, tmp_path):
    """A chunk of other seeds, and one on other data, are other chunks; those that are alike are taken all the same."""
    specs = make_specs(valence)
    changed = [dataclasses.replace(spec, seed=spec.seed + 100) if spec.group == "perfect rnn" else spec for spec in specs]
    mixed = Population.create(tmp_path / "mixed", changed, valence)
    assert reuse(mixed, [population.path]) == {population.path: 4}
    (left,) = mixed.remaining()
    assert {spec.group for spec in mixed.chunk_specs(left)} == {"perfect rnn"}
    train_remaining(mixed, LocalRuntime())
    assert len(Population.open(mixed.path).table()) == len(specs)

    other_data = dataclasses.replace(valence, base=valence.base.select(torch.arange(399)))
    other = Population.create(tmp_path / "other", specs, other_data)
    assert reuse(other, [population.path]) == {}


def test_damaged_and_failed_chunks_are_not_taken(population, fresh, valence, tmp_path):
    source = Population.create(tmp_path / "source", make_specs(valence), valence)
    assert reuse(source, [source.path, population.path]) == {population.path: len(population)}
    (first, _), (_, second) = source.committed().items()
    weights = source.chunk_path(first) / "weights.safetensors"
    content = weights.read_bytes()
    weights.unlink()  # the file that the populations share stays whole
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    half, _ = second.halves()
    failed = Population.create(tmp_path / "failed", make_specs(valence), valence)
    single = dataclasses.replace(half, networks=1)
    failed.record(commit_failure(str(failed.path), single, "out of memory"), single)
    assert reuse(fresh, [source.path, failed.path]) == {source.path: second.networks}
    assert sum(chunk.networks for chunk in fresh.remaining()) == len(fresh) - second.networks


def test_a_run_takes_the_networks_of_another(tmp_path, capsys):
    runs = tmp_path / "digits", tmp_path / "landscape"
    given = "--size", "tiny", "--workers", "0", "--out"
    assert main(["run", "digits", *given, str(runs[0])]) == 0
    assert main(["run", "landscape", *given, str(runs[1]), "--reuse", str(runs[0])]) == 0
    said = capsys.readouterr().err
    assert Population.open(runs[0] / "population").table() == Population.open(runs[1] / "population").table()
    assert said.count("networks to train") == 1 and f"networks are those of {runs[0]}" in said


def test_a_folder_without_networks_is_refused_before_anything_is_written(tmp_path, capsys):
    assert main(["run", "digits", "--size", "tiny", "--out", str(tmp_path / "run"), "--reuse", str(tmp_path)]) == 2
    assert "holds no population" in capsys.readouterr().err and not (tmp_path / "run").exists()
