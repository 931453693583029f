"""The store: what was committed is read back, what is damaged is named."""

import json
import shutil

import pytest
import torch
from small_population import make_specs

from dynamo_dist import InputError, Population
from dynamo_dist.commit import Corrupted, append_line, commit_folder, read_lines, verify_folder
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import LocalRuntime


@pytest.fixture
def copy(population, tmp_path):
    shutil.copytree(population.path, tmp_path / "population")
    return tmp_path / "population"


def test_table_and_networks_agree(population):
    table = population.table()
    assert tuple(table["id"].to_pylist()) == population.network_ids
    test = population.data.test
    for id, accuracy in zip(table["id"].to_pylist(), table["accuracy"].to_pylist(), strict=True):
        _, logits = population.network(id)(test.inputs, test.lengths_N)
        assert (logits.argmax(-1) == test.targets[population.spec(id).target]).double().mean() == pytest.approx(accuracy, abs=0.011)


def test_stacks_hold_the_named_networks_in_order(population):
    wanted = population.network_ids[1:5]
    stacks = list(population.stacks(wanted))
    assert tuple(id for stack in stacks for id in stack.ids) == wanted
    test = population.data.test
    for stack in stacks:
        _, logits_MBC = stack.networks(test.inputs[None], test.lengths_N[None])
        for id, logits in zip(stack.ids, logits_MBC, strict=True):
            assert torch.allclose(logits, population.network(id)(test.inputs, test.lengths_N)[1], atol=1e-5)


def test_stacks_of_a_limited_size_are_the_same_networks(population):
    whole = {id: (stack.networks, row) for stack in population.stacks() for row, id in enumerate(stack.ids)}
    few = list(population.stacks(networks=3))
    assert max(len(stack.ids) for stack in few) == 3 and sum(len(stack.ids) for stack in few) == len(population)
    for stack in few:
        for row, id in enumerate(stack.ids):
            networks, position = whole[id]
            assert all(torch.equal(p[row], networks.parameters[name][position]) for name, p in stack.networks.parameters.items())


def test_networks_are_found_by_group(population):
    assert population.ids(group="leaky gru") == ("leaky gru #0", "leaky gru #1")
    assert population.ids(computation="perfect", seed="4") == ("perfect rnn #0",)
    assert population.ids(group="none") == ()
    assert [stack.ids for stack in population.stacks(population.ids(group="leaky gru"), networks=1)] == [("leaky gru #0",), ("leaky gru #1",)]
    with pytest.raises(InputError, match="networks have no column 'grp'"):
        population.ids(grp="leaky gru")


def test_the_same_population_is_found_again_another_is_refused(copy, valence):
    assert Population.create(copy, make_specs(valence), valence).remaining() == []
    with pytest.raises(InputError, match="holds a population of other networks"):
        Population.create(copy, make_specs(valence, networks=1), valence)


def test_missing_networks_are_counted_and_planned_again(copy):
    journal = copy / "journal.jsonl"
    first = journal.read_text().splitlines()[0]
    journal.write_text(first + "\n")
    with pytest.raises(InputError, match=r"of 6 networks are not trained yet; continue the run with --resume"):
        Population.open(copy)
    left = Population(copy).remaining()
    assert sum(chunk.networks for chunk in left) == 6 - json.loads(first)["networks"]
    # What is there can be looked at meanwhile.
    assert Population(copy).table().num_rows == json.loads(first)["networks"]


def test_a_network_in_two_chunks_is_an_error(copy):
    line = json.loads((copy / "journal.jsonl").read_text().splitlines()[0])
    append_line(copy / "journal.jsonl", {**line, "chunk": "another"})
    with pytest.raises(Corrupted, match="names the networks from position 0 twice"):
        Population(copy).remaining()


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_weights_are_named_and_trained_again(copy, population, capsys, damage):
    weights = sorted(copy.glob("chunks/*/weights.safetensors"))[0]
    content = bytearray(weights.read_bytes())
    if damage == "remove":
        weights.unlink()
    elif damage == "truncate":
        weights.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1
        weights.write_bytes(content)
    with pytest.raises(Corrupted, match=str(weights)):
        Population.open(copy)
    # Training again makes good what was damaged, says so, and leaves the damaged folder to look at.
    train_remaining(Population(copy), LocalRuntime())
    assert f"{weights}" in capsys.readouterr().err
    assert len(list(copy.glob("damaged-*"))) == 1
    repaired = {id: (stack.networks, row) for stack in Population.open(copy).stacks() for row, id in enumerate(stack.ids)}
    for stack in population.stacks():
        for row, id in enumerate(stack.ids):
            networks, position = repaired[id]
            assert all(torch.equal(p[row], networks.parameters[name][position]) for name, p in stack.networks.parameters.items())


def test_a_torn_last_line_is_ignored_and_the_next_writer_removes_it(tmp_path):
    journal = tmp_path / "journal.jsonl"
    append_line(journal, {"chunk": "a"})
    with open(journal, "a") as file:
        file.write('{"chunk": "b')
    assert read_lines(journal) == [{"chunk": "a"}]
    append_line(journal, {"chunk": "c"})
    assert read_lines(journal) == [{"chunk": "a"}, {"chunk": "c"}]


def test_a_bad_line_in_the_middle_is_an_error(tmp_path):
    journal = tmp_path / "journal.jsonl"
    journal.write_text('{"chunk": "a"}\n{"chunk"\n{"chunk": "c"}\n')
    with pytest.raises(Corrupted, match="line 2 is not JSON"):
        read_lines(journal)


def test_a_failed_commit_leaves_nothing(tmp_path):
    def write(folder):
        (folder / "half").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        commit_folder(tmp_path / "chunk", write)
    assert list(tmp_path.iterdir()) == []


def test_a_second_commit_of_the_same_work_is_harmless(tmp_path):
    for content in ("one", "one"):
        commit_folder(tmp_path / "chunk", lambda folder, content=content: (folder / "file").write_text(content))
    verify_folder(tmp_path / "chunk")
    assert [path.name for path in tmp_path.iterdir()] == ["chunk"]


def test_a_folder_without_a_population_is_one_sentence(tmp_path):
    with pytest.raises(InputError, match="holds no population"):
        Population.open(tmp_path)
