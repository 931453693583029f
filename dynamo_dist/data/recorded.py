"""The user's own trials, from NumPy arrays or from Parquet.

NumPy: a folder of `.npy` files, or a mapping from these names to files anywhere:

    inputs    int (N, T) tokens from 1 on, 0 is padding; or float (N, T, I)
    lengths   int (N,) valid steps of each trial; without it all T are
    others    targets, by the name of the file: int (N,) a class, int (N, T) a class at every step, float (N,) or (N, O) values,
              float (N, T, O) values at every step

Names with `meta_` or `test_` before them are those parts; what is not given is split off by the seed. `meta_` needs no targets.

Parquet: one file with a row per trial, or a folder with train.parquet and, where given, meta.parquet and test.parquet. The column
`inputs` holds lists of whole numbers (tokens) or lists of lists of numbers (steps of features), of any length; every other column is a
target: a whole number or a list of them (a class, a class at every step), a number or a list of O (values), a list of lists of O (values
at every step).

In targets, class -1 and NaN mean that no answer is asked for. Pickled objects are never loaded.

Legend: N trials, T time steps, I input features, O output values.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from dynamo_dist.data.dataset import Dataset, Examples, Output
from dynamo_dist.data.files import read_parquet
from dynamo_dist.errors import InputError

PARTS = ("meta", "test")


@dataclass(frozen=True, kw_only=True)
class RecordedTask:
    """Which recordings, and how they are split where they are not in parts already."""

    # A folder of .npy or of .parquet files, one .parquet file, or the .npy files by name.
    source: str | Mapping[str, str]
    # Shares of the trials that become these parts where no files are given for them; the rest is base.
    meta: float = 0.4
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.meta and 0 < self.test and self.meta + self.test < 1):
            raise InputError(f"RecordedTask: meta={self.meta}, test={self.test}: expected shares above 0 with a sum below 1")


@dataclass(frozen=True, kw_only=True)
class _Trials:
    """One file set, padded: what `Examples` holds, as NumPy arrays, and where each came from, for messages."""

    inputs: np.ndarray
    lengths: np.ndarray
    targets: dict[str, np.ndarray]
    # What to call an array of this set in a message.
    where: dict[str, str]

    def select(self, rows: np.ndarray) -> "_Trials":
        targets = {name: target[rows] for name, target in self.targets.items()}
        return dataclasses.replace(self, inputs=self.inputs[rows], lengths=self.lengths[rows], targets=targets)


def make_recorded(task: RecordedTask) -> Dataset:
    """The recordings as base, meta and test. Raises `InputError` that names the file and the trial that does not fit."""
    found = {part: _check(trials) for part, trials in _read(task.source).items()}
    main = found.pop("train")
    if not main.targets:
        raise InputError(f"{main.where['inputs']}: there are no targets beside the inputs")
    for part, trials in found.items():
        _check_alike(part, main, trials)
    count = len(main.inputs)
    order = np.random.default_rng(task.seed).permutation(count)
    for part, share in (("test", task.test), ("meta", task.meta)):
        if part not in found:
            take = round(share * count)
            found[part] = main.select(np.sort(order[:take]))
            order = order[take:]
    parts = {"base": main.select(np.sort(order)), **found}
    for part, trials in parts.items():
        if not len(trials.inputs):
            raise InputError(f"{main.where['inputs']}: {count} trials are too few, no trial is left for the part {part}")
    steps = max(trials.inputs.shape[1] for trials in parts.values())
    outputs = {
        name: _output(main.where[name], [trials.targets[name] for trials in parts.values() if name in trials.targets])
        for name in main.targets
    }
    vocabulary = None if main.inputs.ndim == 3 else 1 + max(int(trials.inputs.max()) for trials in parts.values())
    examples = {part: _examples(trials, outputs, steps) for part, trials in parts.items()}
    return Dataset(**examples, vocabulary=vocabulary, outputs=outputs)


def _read(source: str | Mapping[str, str]) -> dict[str, _Trials]:
    """Trials by part: train, and what there is of meta and test."""
    if not isinstance(source, Mapping):
        path = Path(source)
        if path.suffix == ".parquet":
            return {"train": _read_parquet(path)}
        if not path.is_dir():
            raise InputError(
                f"{path} does not exist: give a folder with inputs.npy and targets.npy, or with train.parquet, or a .parquet file"
            )
        if (path / "train.parquet").exists():
            return {part: _read_parquet(file) for part in ("train", *PARTS) if (file := path / f"{part}.parquet").exists()}
        source = {file.stem: str(file) for file in sorted(path.glob("*.npy"))}
        if "inputs" not in source:
            raise InputError(f"{path} holds neither inputs.npy nor train.parquet")
    if "inputs" not in source:
        raise InputError(f"recordings by name: {', '.join(source) or 'nothing'} given, but no inputs")
    by_part: dict[str, dict[str, Path]] = {"train": {}}
    for name, where in source.items():
        part, _, rest = name.partition("_")
        if part not in PARTS:
            part, rest = "train", name
        by_part.setdefault(part, {})[rest] = Path(where)
    for part, files in by_part.items():
        if "inputs" not in files:
            raise InputError(f"{next(iter(files.values()))} is for the part {part}, but there is no {part}_inputs.npy")
    return {part: _read_npy(files) for part, files in by_part.items()}


def _read_npy(files: dict[str, Path]) -> _Trials:
    arrays = {name: _load(path) for name, path in files.items()}
    inputs = arrays.pop("inputs")
    if inputs.ndim not in (2, 3) or (inputs.dtype.kind in "iu") != (inputs.ndim == 2):
        raise InputError(
            f"{files['inputs']}: shape {inputs.shape} of {inputs.dtype}: expected whole numbers (N, T) or floating-point numbers (N, T, I)"
        )
    count, steps = inputs.shape[:2]
    lengths = arrays.pop("lengths", np.full(count, steps))
    if lengths.shape != (count,) or lengths.dtype.kind not in "iu" or not ((lengths >= 1) & (lengths <= steps)).all():
        raise InputError(
            f"{files['lengths']}: expected {count} whole numbers from 1 to {steps}, one for each trial of {files['inputs'].name}"
        )
    return _Trials(inputs=inputs, lengths=lengths, targets=arrays, where={name: str(path) for name, path in files.items()})


def _load(path: Path) -> np.ndarray:
    """A numeric array; whole numbers and truth values as int64, floating-point as float32."""
    try:
        array = np.load(path, allow_pickle=False)
    except (EOFError, OSError) as error:
        raise InputError(f"{path} is not a readable .npy file: {error}") from None
    except ValueError as error:
        # NumPy takes any file without its mark for a pickle.
        pickled = "pickle" in str(error)
        why = "it is pickled or damaged, and pickles are never loaded; save an array of numbers with numpy.save" if pickled else str(error)
        raise InputError(f"{path} is not a readable .npy file: {why}") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.ndim or not len(array):
        shown = f"shape {array.shape} of {array.dtype}" if isinstance(array, np.ndarray) else "an archive of arrays"
        raise InputError(f"{path} holds {shown}: expected a .npy file with an array of numbers, trials first")
    return _numbers(array, whole=array.dtype.kind != "f")


def _numbers(array: np.ndarray, *, whole: bool) -> np.ndarray:
    """As int64 or float32; what is too large for float32 becomes infinite, which is refused later with its place."""
    with np.errstate(over="ignore"):
        return array.astype(np.int64 if whole else np.float32)


def _read_parquet(path: Path) -> _Trials:
    if not path.exists():
        raise InputError(f"{path} does not exist")
    table = read_parquet(path)
    if "inputs" not in table.column_names:
        raise InputError(f"{path} has no column inputs: its columns are {', '.join(table.column_names)}")
    where = {name: f"{path}, column {name}" for name in table.column_names}
    padded = {name: _pad(where[name], table[name]) for name in table.column_names}
    inputs, lengths = padded.pop("inputs")
    if lengths is None or (inputs.dtype.kind == "i") != (inputs.ndim == 2):
        raise InputError(f"{where['inputs']} is {table['inputs'].type}: expected lists of whole numbers, or lists of lists of numbers")
    if lengths.min() < 1:
        raise InputError(f"{where['inputs']}, row {int(lengths.argmin())}: the trial has no steps")
    targets = {}
    for name, (target, target_lengths) in padded.items():
        values_once = target.dtype.kind == "f" and target.ndim == 2
        if target_lengths is not None:
            expected = np.full_like(lengths, target.shape[1]) if values_once else lengths
            bad = np.flatnonzero(target_lengths != expected)
            if bad.size:
                row = int(bad[0])
                what = "values, others have" if values_once else "steps, its inputs have"
                raise InputError(f"{where[name]}, row {row}: {target_lengths[row]} {what} {expected[row]}")
        targets[name] = target
    return _Trials(inputs=inputs, lengths=lengths, targets=targets, where=where)


def _pad(where: str, column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray | None]:
    """A column of numbers, of lists, or of lists of lists, padded to the longest (0, or NaN in numbers that are not whole); and lengths.

    The lists of one step have one length throughout.
    """
    lengths = inner = None
    values = column
    if _is_list(values.type):
        _no_nulls(where, values)
        lengths = pc.list_value_length(values).to_numpy().astype(np.int64)
        values = pc.list_flatten(values)
        if _is_list(values.type):
            _no_nulls(where, values)
            sizes = pc.list_value_length(values).to_numpy()
            inner = int(sizes[0]) if len(sizes) else 0
            bad = np.flatnonzero(sizes != inner)
            if bad.size or not inner:
                row = int(np.searchsorted(np.cumsum(lengths), bad[0] if bad.size else 0, side="right"))
                raise InputError(f"{where}, row {row}: a step has {sizes[bad[0]] if bad.size else 0} features, the first one has {inner}")
            values = pc.list_flatten(values)
    whole = pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)
    if not whole and not pa.types.is_floating(values.type):
        raise InputError(f"{where} is {column.type}: expected numbers, lists of numbers, or lists of lists of numbers")
    _no_nulls(where, values)
    # A list of lists is a step of features: whole numbers in it are values all the same.
    flat = _numbers(values.to_numpy(), whole=whole and inner is None)
    if lengths is None:
        return flat, None
    step = () if inner is None else (inner,)
    padded = np.full((len(lengths), int(lengths.max()), *step), 0 if flat.dtype.kind == "i" else np.nan, dtype=flat.dtype)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = flat.reshape(-1, *step)
    return padded, lengths


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _no_nulls(where: str, values: pa.ChunkedArray) -> None:
    if values.null_count:
        raise InputError(f"{where}: {values.null_count} values are null: leave such trials out, or use NaN or -1 in targets")


def _check(trials: _Trials) -> _Trials:
    """The trials with zeros in padded inputs and no answer asked in padded targets; raises `InputError` for what does not fit."""
    count, steps = trials.inputs.shape[:2]
    valid = np.arange(steps) < trials.lengths[:, None]
    inputs = trials.inputs.copy()
    inputs[~valid] = 0
    wrong = (inputs < 1) & valid if inputs.ndim == 2 else ~np.isfinite(inputs).all(axis=2)
    if wrong.any():
        trial, step = (int(index[0]) for index in np.nonzero(wrong))
        value = f"token {inputs[trial, step]}: tokens count from 1, and 0 is padding" if inputs.ndim == 2 else "not all finite numbers"
        raise InputError(f"{trials.where['inputs']}, trial {trial}, step {step}: {value}")
    targets = {}
    for name, target in trials.targets.items():
        where = trials.where[name]
        target = target[:, None] if target.dtype.kind == "f" and target.ndim == 1 else target.copy()
        every_step = _every_step(target)
        if target.ndim > (3 if target.dtype.kind == "f" else 2) or len(target) != count or (every_step and target.shape[1] != steps):
            raise InputError(
                f"{where}: shape {trials.targets[name].shape} of {target.dtype} does not fit {count} trials of {steps} steps: expected "
                "whole numbers (N,) or (N, T), or floating-point numbers (N, O) or (N, T, O)"
            )
        if every_step:
            target[~valid] = -1 if target.dtype.kind == "i" else np.nan
        wrong = target < -1 if target.dtype.kind == "i" else np.isinf(target)
        if wrong.any():
            place = tuple(int(index[0]) for index in np.nonzero(wrong))
            raise InputError(
                f"{where}, trial {place[0]}: {target[place]}: expected classes from 0 on, or finite values (-1, NaN: not asked)"
            )
        targets[name] = target
    return dataclasses.replace(trials, inputs=inputs, targets=targets)


def _every_step(target: np.ndarray) -> bool:
    return target.ndim == (3 if target.dtype.kind == "f" else 2)


def _check_alike(part: str, main: _Trials, trials: _Trials) -> None:
    """Raise `InputError` unless a part that the user gave has the kind of inputs and of targets that the main one has."""
    if trials.inputs.shape[2:] != main.inputs.shape[2:]:
        raise InputError(
            f"{trials.where['inputs']}: features {trials.inputs.shape[2:]}, but {main.where['inputs']} has {main.inputs.shape[2:]}"
        )
    for name, target in main.targets.items():
        other = trials.targets.get(name)
        if other is None and part == "test":
            raise InputError(f"{trials.where['inputs']}: there are no targets {name} to measure on")
        if other is not None and (other.dtype != target.dtype or other.ndim != target.ndim or _size(other) != _size(target)):
            raise InputError(f"{trials.where[name]}: {other.shape} of {other.dtype} is not the kind of {main.where[name]}: {target.shape}")


def _size(target: np.ndarray) -> int:
    """Output values; 0 for classes."""
    return target.shape[-1] if target.dtype.kind == "f" else 0


def _output(where: str, targets: list[np.ndarray]) -> Output:
    """What networks answer, from the targets of all parts."""
    if targets[0].dtype.kind == "f":
        return Output(kind="values", size=_size(targets[0]), every_step=_every_step(targets[0]))
    classes = 1 + max(int(target.max()) for target in targets)
    if classes < 2:
        raise InputError(f"{where}: there is no class above {classes - 1}; at least two classes are needed")
    return Output(kind="classes", size=classes, every_step=_every_step(targets[0]))


def _examples(trials: _Trials, outputs: dict[str, Output], steps: int) -> Examples:
    """One part as tensors, padded to `steps`; a target that the part has not is not asked for anywhere."""
    count, have = trials.inputs.shape[:2]

    def padded(array: np.ndarray, fill: float) -> torch.Tensor:
        widths = [(0, 0), (0, steps - have)] + [(0, 0)] * (array.ndim - 2)
        return torch.from_numpy(np.pad(array, widths, constant_values=fill))

    targets = {}
    for name, output in outputs.items():
        fill, dtype = (-1, np.int64) if output.kind == "classes" else (np.nan, np.float32)
        values = () if output.kind == "classes" else (output.size,)
        target = trials.targets.get(name)
        if target is None:
            target = np.full((count, have, *values) if output.every_step else (count, *values), fill, dtype=dtype)
        targets[name] = padded(target, fill) if output.every_step else torch.from_numpy(target)
    return Examples(inputs=padded(trials.inputs, 0), lengths_N=torch.from_numpy(trials.lengths), targets=targets)
