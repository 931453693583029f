"""The user's own trials: what the arrays hold is what arrives, and what does not fit is one sentence."""

import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dynamo_dist import InputError
from dynamo_dist.data import Output
from dynamo_dist.data.recorded import RecordedTask, make_recorded

COUNT, STEPS = 30, 7


@pytest.fixture
def trials():
    """30 trials of up to 7 steps with 2 features, and every kind of target; inputs[trial, step, 0] is 100 trial + step."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, STEPS, size=COUNT, endpoint=True)
    lengths[4] = STEPS
    inputs = np.stack(np.broadcast_arrays(100.0 * np.arange(COUNT)[:, None] + np.arange(STEPS), rng.normal(size=(COUNT, STEPS))), axis=2)
    return {
        "inputs": inputs,
        "lengths": lengths,
        "choice": np.arange(COUNT) % 3,
        "phase": rng.integers(-1, 2, size=(COUNT, STEPS)),
        "speed": rng.normal(size=COUNT),
        "angles": rng.normal(size=(COUNT, 3)).astype(np.float32),
        "path": rng.normal(size=(COUNT, STEPS, 2)),
    }


OUTPUTS = {
    "choice": Output(kind="classes", size=3),
    "phase": Output(kind="classes", size=2, every_step=True),
    "speed": Output(kind="values", size=1),
    "angles": Output(kind="values", size=3),
    "path": Output(kind="values", size=2, every_step=True),
}


def save_npy(folder, arrays, prefix=""):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{prefix}{name}.npy", array)
    return folder


def save_parquet(path, arrays):
    """Rows cut to their lengths."""
    lengths = arrays["lengths"].tolist()
    columns = {}
    for name, array in arrays.items():
        if name != "lengths":
            rows = array.tolist()
            every_step = array.ndim > 1 and array.shape[1] == STEPS
            columns[name] = [row[:length] for row, length in zip(rows, lengths, strict=True)] if every_step else rows
    pq.write_table(pa.table(columns), path)
    return path


def check(part, trials, rows):
    """The part holds these trials, in this order."""
    assert len(part) == len(rows)
    for at, row in enumerate(rows):
        length = int(trials["lengths"][row])
        assert part.lengths_N[at] == length
        assert np.array_equal(part.inputs[at, :length].numpy(), trials["inputs"][row, :length].astype(np.float32))
        assert not part.inputs[at, length:].any()
        assert part.targets["choice"][at] == trials["choice"][row]
        assert np.array_equal(part.targets["phase"][at, :length], trials["phase"][row, :length])
        assert (part.targets["phase"][at, length:] == -1).all()
        assert part.targets["speed"][at].tolist() == [np.float32(trials["speed"][row])]
        assert np.array_equal(part.targets["angles"][at].numpy(), trials["angles"][row])
        assert np.array_equal(part.targets["path"][at, :length].numpy(), trials["path"][row, :length].astype(np.float32))
        assert part.targets["path"][at, length:].isnan().all()


def rows_of(part):
    """Which trials a part holds, by their first input."""
    return (part.inputs[:, 0, 0] / 100).long().tolist()


@pytest.mark.parametrize("kind", ["folder", "names", "parquet", "parquet folder"])
def test_trials_arrive_split_by_the_seed(kind, trials, tmp_path):
    # What lies beyond the length of a trial is nobody's business.
    noisy = {**trials, "inputs": np.where(np.arange(STEPS)[:, None] < trials["lengths"][:, None, None], trials["inputs"], np.nan)}
    folder = save_npy(tmp_path / "npy", noisy)
    (tmp_path / "parquet").mkdir()
    source = {
        "folder": str(folder),
        "names": {name: str(folder / f"{name}.npy") for name in trials},
        "parquet": str(save_parquet(tmp_path / "trials.parquet", trials)),
        "parquet folder": str(save_parquet(tmp_path / "parquet" / "train.parquet", trials).parent),
    }[kind]
    data = make_recorded(RecordedTask(source=source, seed=1))
    assert data.outputs == OUTPUTS and data.kind == "values" and data.input_shape == (2,) and data.vocabulary is None
    rows = {part: rows_of(getattr(data, part)) for part in data.PARTS}
    assert {part: len(found) for part, found in rows.items()} == {"base": 12, "meta": 12, "test": 6}
    assert sorted(row for found in rows.values() for row in found) == list(range(COUNT))
    for part, found in rows.items():
        check(getattr(data, part), trials, found)
    other = make_recorded(RecordedTask(source=source, seed=2, meta=0.5, test=0.3))
    assert [len(other.base), len(other.meta), len(other.test)] == [6, 15, 9] and rows_of(other.test)[:6] != rows["test"]


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_parts_that_are_given_are_taken_as_they_are(kind, trials, tmp_path):
    def part(rows, names=tuple(trials)):
        return {name: trials[name][rows] for name in names}

    # The meta part has no labels, and no trial of the longest length.
    train, test = np.arange(20), np.arange(20, 26)
    meta = np.array([row for row in range(26, 30) if trials["lengths"][row] < STEPS])
    if kind == "npy":
        for rows, names, prefix in ((train, tuple(trials), ""), (test, tuple(trials), "test_"), (meta, ("inputs", "lengths"), "meta_")):
            save_npy(tmp_path, part(rows, names), prefix)
    else:
        for rows, names, name in ((train, tuple(trials), "train"), (test, tuple(trials), "test"), (meta, ("inputs", "lengths"), "meta")):
            save_parquet(tmp_path / f"{name}.parquet", part(rows, names))
    data = make_recorded(RecordedTask(source=str(tmp_path)))
    check(data.base, trials, list(train))
    check(data.test, trials, list(test))
    assert rows_of(data.meta) == list(meta) and data.meta.lengths_N.tolist() == trials["lengths"][meta].tolist()
    assert (data.meta.targets["choice"] == -1).all() and (data.meta.targets["phase"] == -1).all()
    assert data.meta.targets["path"].isnan().all() and data.meta.inputs.shape[1] == STEPS


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_tokens_have_a_vocabulary(kind, tmp_path):
    tokens = [[3, 1], [2, 5, 4], [1], [4, 4, 4]] * 3
    labels = [0, 1, 0, 1] * 3
    if kind == "npy":
        padded = np.array([row + [0] * (3 - len(row)) for row in tokens], dtype=np.int32)
        source = save_npy(tmp_path, {"inputs": padded, "lengths": [len(row) for row in tokens], "heard": np.array(labels, dtype=bool)})
    else:
        pq.write_table(pa.table({"inputs": tokens, "heard": labels}), source := tmp_path / "x.parquet")
    data = make_recorded(RecordedTask(source=str(source), meta=0.25, test=0.25))
    assert data.kind == "tokens" and data.vocabulary == 6 and data.outputs == {"heard": Output(kind="classes", size=2)}
    known = {tuple(row): label for row, label in zip(tokens, labels, strict=True)}
    count = 0
    for part in (data.base, data.meta, data.test):
        for row, length, y in zip(part.inputs.tolist(), part.lengths_N.tolist(), part.targets["heard"].tolist(), strict=True):
            assert known[tuple(row[:length])] == y and not any(row[length:])
            count += 1
    assert count == 12 and len(data.test) == 3


def test_without_lengths_all_steps_are_valid_and_nan_is_not_asked(trials, tmp_path):
    path = trials["path"].copy()
    path[:, :3] = np.nan
    data = make_recorded(RecordedTask(source=str(save_npy(tmp_path, {"inputs": trials["inputs"], "targets": path}))))
    assert (data.base.lengths_N == STEPS).all() and data.outputs["targets"].every_step
    assert data.base.targets["targets"][:, :3].isnan().all() and data.base.targets["targets"][:, 3:].isfinite().all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"inputs": np.zeros((4, 3))}, r"inputs.npy: shape \(4, 3\) of float32: expected whole numbers \(N, T\) or floating-point"),
        ({"inputs": np.array(["a", "b"])}, r"inputs.npy holds shape \(2,\) of <U1: expected a .npy file with an array of numbers"),
        ({"inputs": np.array([{}, []], dtype=object)}, r"inputs.npy is not a readable .npy file: it is pickled"),
        ({"choice": np.arange(29)}, r"choice.npy: shape \(29,\) of int64 does not fit 30 trials of 7 steps"),
        ({"path": np.zeros((30, 6, 2))}, r"path.npy: shape \(30, 6, 2\) of float32 does not fit 30 trials of 7 steps"),
        ({"choice": np.arange(30) - 2}, r"choice.npy, trial 0: -2: expected classes from 0 on"),
        ({"choice": np.zeros(30, dtype=int)}, r"choice.npy: there is no class above 0; at least two classes"),
        ({"angles": np.full((30, 3), np.inf)}, r"angles.npy, trial 0: inf: expected classes from 0 on, or finite values"),
        ({"angles": np.full((30, 3), 1e300)}, r"angles.npy, trial 0: inf"),
        ({"lengths": np.full(30, 8)}, r"lengths.npy: expected 30 whole numbers from 1 to 7, one for each trial of inputs.npy"),
        ({"lengths": np.full(29, 3)}, r"lengths.npy: expected 30 whole numbers"),
        ({"lengths": np.full(30, 3.0)}, r"lengths.npy: expected 30 whole numbers"),
        ({"test_choice": np.arange(3)}, r"test_choice.npy is for the part test, but there is no test_inputs.npy"),
        ({"test_inputs": np.zeros((3, 7, 2))}, r"test_inputs.npy: there are no targets angles to measure on"),
        ({"meta_inputs": np.zeros((3, 7, 5))}, r"meta_inputs.npy: features \(5,\), but .*inputs.npy has \(2,\)"),
        ({"meta_inputs": np.zeros((3, 7, 2)), "meta_angles": np.zeros((3, 2))}, r"meta_angles.npy: \(3, 2\) of float32 is not the kind of"),
    ],
)
def test_arrays_that_do_not_fit_are_one_sentence(change, match, trials, tmp_path):
    folder = save_npy(tmp_path, {**trials, **change})
    with pytest.raises(InputError, match=match) as refused:
        make_recorded(RecordedTask(source=str(folder)))
    assert "\n" not in str(refused.value)


def test_inputs_that_are_not_finite_or_not_tokens_are_named(trials, tmp_path):
    trials["inputs"][4, 5, 1] = np.nan
    trials["inputs"][3, trials["lengths"][3] :] = np.nan
    with pytest.raises(InputError, match=r"inputs.npy, trial 4, step 5: not all finite numbers"):
        make_recorded(RecordedTask(source=str(save_npy(tmp_path / "nan", trials))))
    tokens = {"inputs": np.array([[1, 2], [3, 0]]), "y": np.array([0, 1])}
    with pytest.raises(InputError, match=r"inputs.npy, trial 1, step 1: token 0: tokens count from 1, and 0 is padding"):
        make_recorded(RecordedTask(source=str(save_npy(tmp_path / "zero", tokens))))
    with pytest.raises(InputError, match=r"inputs.npy: 2 trials are too few, no trial is left for the part test"):
        make_recorded(RecordedTask(source=str(save_npy(tmp_path / "zero", {**tokens, "inputs": np.array([[1, 2], [3, 4]])}))))


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"x": [1]}, r"has no column inputs: its columns are x"),
        ({"inputs": [1, 2]}, r"column inputs is int64: expected lists of whole numbers, or lists of lists"),
        ({"inputs": [[0.5], [1.0]]}, r"column inputs is list<.*double>: expected lists of whole numbers, or lists of lists"),
        ({"inputs": [["a"], ["b"]]}, r"column inputs is list<.*string>: expected numbers"),
        ({"inputs": [[1], []], "y": [0, 1]}, r"column inputs, row 1: the trial has no steps"),
        ({"inputs": [[1], None], "y": [0, 1]}, r"column inputs: 1 values are null"),
        ({"inputs": [[1], [2]], "y": [0, None]}, r"column y: 1 values are null"),
        ({"inputs": [[[1.0]], [[1.0], [1.0, 2.0]]], "y": [0, 1]}, r"column inputs, row 1: a step has 2 features, the first one has 1"),
        ({"inputs": [[1, 2], [3]], "y": [[0, 1], [1, 1]]}, r"column y, row 1: 2 steps, its inputs have 1"),
        ({"inputs": [[1, 2], [3]], "y": [[0.5], [0.5, 0.1]]}, r"column y, row 0: 1 values, others have 2"),
        ({"inputs": [[1, 2], [3]]}, r"there are no targets beside the inputs"),
    ],
)
def test_parquet_that_does_not_fit_is_one_sentence(columns, match, tmp_path):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=match):
        make_recorded(RecordedTask(source=str(tmp_path / "x.parquet")))


class Trap:
    """What unpickling would do."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was loaded')",))


def test_pickles_are_never_loaded_and_missing_files_are_named(trials, tmp_path):
    folder = save_npy(tmp_path / "d", trials)
    (folder / "choice.npy").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match=r"choice.npy is not a readable .npy file: it is pickled or damaged, and"):
        make_recorded(RecordedTask(source=str(folder)))
    (folder / "choice.npy").write_bytes((folder / "path.npy").read_bytes()[:-8])
    with pytest.raises(InputError, match=r"choice.npy is not a readable .npy file: (?!it is pickled)"):
        make_recorded(RecordedTask(source=str(folder)))
    np.savez(tmp_path / "many.npz", x=np.arange(3))
    for source, match in (
        (str(tmp_path / "nowhere"), "nowhere does not exist: give a folder with inputs.npy"),
        (str(tmp_path), "holds neither inputs.npy nor train.parquet"),
        ({"targets": "y.npy"}, "recordings by name: targets given, but no inputs"),
        ({"inputs": str(tmp_path / "none.npy")}, "none.npy is not a readable .npy file"),
        ({"inputs": str(tmp_path / "many.npz")}, "many.npz holds an archive of arrays: expected a .npy file"),
    ):
        with pytest.raises(InputError, match=match):
            make_recorded(RecordedTask(source=source))
    with pytest.raises(InputError, match=r"meta=0.6, test=0.5: expected shares above 0 with a sum below 1"):
        RecordedTask(source="x", meta=0.6, test=0.5)
    assert torch.is_tensor(make_recorded(RecordedTask(source=str(save_npy(folder, trials)))).base.inputs)
