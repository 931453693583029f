"""What the base networks give on the examples of a training step: recomputed, or read from a memory-mapped Arrow cache.

Base networks do not change while the meta-model trains, so what they give on an example can be kept. Whether that pays depends on the
networks, the disk and the number of steps: `choose` measures it.

    <folder>/<key>.arrow    Arrow IPC file of one stack, uncompressed: a row per example in the order of the examples, a fixed-size list
                            per tensor of the trajectory (`h0`, `h1`, ...) and `outputs`; logical shapes in the schema's metadata
    <folder>/<key>.json     its size and SHA-256, written last
    <folder>/.<key>.arrow.lock, .tmp    who writes it, and what is not yet whole

Sequences lie padded to the longest of all examples. Record batches have equal lengths, so that any row is found at once. Nothing of a
file is looked at before its SHA-256 is right: Arrow trusts what it maps, and one flipped byte in a batch's header can end the process. That
reads the file once (1.2 GB in 0.7 s, filled in 4 to 6 s) and warms the page cache.

Legend: M networks of a stack, N examples, B batch, T time, H hidden units, C output units; R rows of a record batch.
"""

import fcntl
import itertools
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dynamo_dist.commit import Corrupted, sha256, write_json
from dynamo_dist.data import Examples
from dynamo_dist.errors import InputError
from dynamo_dist.networks import Recurrent, Stacked, StackedRecurrent
from dynamo_dist.networks.imported import one_line
from dynamo_dist.networks.recurrence import Mixing

FORMAT = 1
WAYS = ("auto", "recompute", "cache")
# Batches on which recomputing and reading are measured, after one that is not counted.
_MEASURED = 5
# Of the sample on which writing and reading are measured: larger than a core's own cache, written in a fraction of a second.
_SAMPLE_BYTES = 64_000_000

# Examples that a stack runs on at once to fill a cache, as far as their rows of it are no larger than this.
_MOST_AT_ONCE, _BYTES_AT_ONCE = 128, 2**26

# What one stack gives: trajectory and outputs, in the form of `Stacked.__call__`.
Given = tuple[Tensor | list[Tensor], Tensor]


class Activations(Protocol):
    """What every stack gives on examples of the meta part."""

    def __call__(self, index_B: Tensor, part: Examples, mixing: Mixing | None = None) -> list[Given]:
        """Trajectory and outputs per stack on the examples at `index_B`, int64 (B,); `part` is `examples.select(index_B)`, and `mixing` says
        how the states of these are mixed.

        In the form of `Stacked.__call__`: trajectories of recurrent networks are one tensor (T, M, B, H) with the T of `part`, of others
        a list of tensors (M, B, ...), one per stage; outputs are (M, B, C), or (M, B, T, C) at every step. Floats of the stack's type,
        without gradients. Steps after the end of a sequence are finite where the network's states are, and otherwise mean nothing.
        """


class Recomputed:
    """The stacks run on every call: the oracle of `Cached`.

    Recurrences of stacks that differ in their readouts alone run as one: of 16 stacks, 24 networks of 4 architectures and 6 tasks, T = 50,
    B = 16, in 15 ms for 31 (one core).
    """

    def __init__(self, stacks: Sequence[Stacked]) -> None:
        self.stacks = stacks
        alike: dict[tuple[Recurrent, torch.dtype], list[tuple[int, StackedRecurrent]]] = {}
        for position, stack in enumerate(stacks):
            if isinstance(stack, StackedRecurrent):
                alike.setdefault((stack.body, stack.dtype), []).append((position, stack))
        # Of every such group the stacks with their positions, and their recurrences. Who is in none stands alone.
        self.groups = [(own, StackedRecurrent.joined([stack for _, stack in own])) for own in alike.values() if len(own) > 1]

    @torch.no_grad()
    def __call__(self, index_B: Tensor, part: Examples, mixing: Mixing | None = None) -> list[Given]:
        given: dict[int, Given] = {}
        for own, recurrences in self.groups:
            lengths_1B = part.steps_N[None]
            trajectories = recurrences.trajectory(_inputs(recurrences, part), mixing).split([stack.count for _, stack in own], dim=1)
            for (position, stack), trajectory_TMBS in zip(own, trajectories, strict=True):
                given[position] = trajectory_TMBS, stack.answers(trajectory_TMBS, lengths_1B)
        return [given[position] if position in given else _run(stack, part, mixing) for position, stack in enumerate(self.stacks)]


class Cached:
    """What was computed once, from one open cache file per stack."""

    def __init__(self, files: Sequence["CacheFile"]) -> None:
        self.files = files

    def __call__(self, index_B: Tensor, part: Examples, mixing: Mixing | None = None) -> list[Given]:
        assert mixing is None, "refused before anything was cached"
        return [file.read(index_B.tolist(), part.inputs.shape[1]) for file in self.files]


def choose(
    stacks: Sequence[Stacked], examples: Examples, *, keys: Sequence[str], folder: Path, batch: int, steps: int, how: str = "auto"
) -> tuple[Activations, str]:
    """The cheaper way to get base activations for `steps` steps of `batch` examples, and a sentence: what was chosen and why.

    `keys`: a name per stack that stands for its networks, the data and the type of its numbers; the cache of a stack is
    `folder/<key>.arrow`, used if it is there and verifies, and else filled. `how`: "auto" measures both ways; "recompute"; "cache".

    A cache is considered if what is missing of it takes less than a quarter of the free disk, and all of it less than half of the
    available memory: beyond that it leaves the page cache, and reads cost what the disk takes.

    Raises `InputError` for another `how`, and for "cache" where the disk does not hold it, the folder cannot be written to, or the
    trajectories cannot be kept.
    """
    if how not in WAYS:
        raise InputError(f"base activations by {how!r}: expected one of {', '.join(WAYS)}")
    if how == "recompute":
        return Recomputed(stacks), "base activations recomputed, as asked"
    if how == "cache":
        return _forced(stacks, examples, keys, folder, batch)
    return _measured(stacks, examples, keys, folder, batch, steps)


def _forced(stacks: Sequence[Stacked], examples: Examples, keys: Sequence[str], folder: Path, batch: int) -> tuple[Activations, str]:
    columns = [_columns(_run(networks, examples.select(torch.arange(1))), examples) for networks in stacks]
    size = _text(len(examples) * sum(map(_row_bytes, columns)))
    paths = [folder / f"{key}.arrow" for key in keys]
    try:
        found, notes = _open_all(paths, columns, examples)
        _require_room(found, columns, examples, folder)
        files = _fill_all(stacks, paths, found, columns, examples, batch)
    except OSError as error:
        raise InputError(
            f"the cache of base activations in {folder} cannot be written ({one_line(error)}): give another folder, or recompute"
        ) from None
    return Cached(files), f"base activations read from a cache of {size} in {folder}, as asked{notes}"


def _measured(
    stacks: Sequence[Stacked], examples: Examples, keys: Sequence[str], folder: Path, batch: int, steps: int
) -> tuple[Activations, str]:
    rng = np.random.default_rng(0)
    batch = min(batch, len(examples))
    draws = [torch.from_numpy(rng.choice(len(examples), size=batch, replace=False)) for _ in range(_MEASURED)]
    parts = [examples.select(index_B) for index_B in draws]

    run = Recomputed(stacks)
    given = run(draws[0], parts[0])
    recompute = _seconds(lambda at: run(*at), list(zip(draws, parts, strict=True)))
    chosen = f"base activations recomputed: {_milliseconds(recompute)} a step"
    try:
        columns = [_columns(one, examples) for one in given]
    except InputError as error:
        return run, f"{chosen}; {error}"

    total = len(examples) * sum(map(_row_bytes, columns))
    cache = f"a cache of {_text(total)}"
    if total > (memory := _available_memory()) / 2:
        return run, f"{chosen}; {cache} would take more than half of the {_text(memory)} of memory that is available"
    paths = [folder / f"{key}.arrow" for key in keys]
    try:
        found, notes = _open_all(paths, columns, examples)
        missing = [s for s, file in enumerate(found) if file is None]
        missing_bytes = _bytes_missing(found, columns, examples)
        if missing and missing_bytes > (free := _free(folder)) / 4:
            return run, f"{chosen}; {cache} would take more than a quarter of the {_text(free)} that are free in {folder}"
        samples, write = _samples([given[s] for s in missing], [columns[s] for s in missing], folder, batch, len(examples))
        sample_of = dict(zip(missing, samples, strict=True))
        tried = [file or sample_of[s] for s, file in enumerate(found)]

        def read_all(at: tuple[list[int], int]) -> None:
            index, longest = at
            for file in tried:
                file.read([row % file.rows for row in index], longest)

        # Random rows of a sample, or of all rows where the cache is there. Either way the page cache is warm, as it stays for a cache
        # that was just filled or verified and is smaller than half of the memory; the first step after it was dropped is slower. The
        # processor's own caches are not: in training a whole step lies between two reads.
        at = [(index_B.tolist(), part.inputs.shape[1]) for index_B, part in zip(draws, parts, strict=True)]
        read = _seconds(read_all, at, between=lambda: run(draws[0], parts[0]))
        # A sample fits into the disk's buffers: large caches took up to 1.8 times as long to fill (4.6 GB: 17 s for 28).
        fill = (sum(_seconds_to_fill(stacks[s], columns[s], examples, batch) for s in missing) + write) * len(examples)
        filling = f"{fill:.2g} s to fill" if fill < 10 else f"{fill:.0f} s to fill"
        if steps * recompute <= fill + steps * read:
            return run, f"{chosen}; {cache} would take {_milliseconds(read)} a step and {filling}{notes}"
        files = _fill_all(stacks, paths, found, columns, examples, batch)
    except OSError as error:
        return run, f"{chosen}; {cache} cannot be written to {folder} ({one_line(error)})"
    price = filling if missing else "nothing to fill, it was there"
    return Cached(files), (
        f"base activations read from {cache} in {folder}: {_milliseconds(read)} a step and {price}; "
        f"recomputing takes {_milliseconds(recompute)} a step{notes}"
    )


@torch.no_grad()
def _run(networks: Stacked, part: Examples, mixing: Mixing | None = None) -> Given:
    inputs, lengths_1B = _inputs(networks, part), None if part.lengths_N is None else part.lengths_N[None]
    if mixing is None:
        return networks(inputs, lengths_1B)
    assert isinstance(networks, StackedRecurrent), "`shard.check_mixing` refuses others"
    return networks(inputs, lengths_1B, mixing=mixing)


def _inputs(networks: Stacked, part: Examples) -> Tensor:
    """(1, B, ...), the same for all networks."""
    return (part.inputs.to(networks.dtype) if part.inputs.is_floating_point() else part.inputs)[None]


T = TypeVar("T")


def _seconds(function: Callable[[T], object], arguments: Sequence[T], between: Callable[[], object] = lambda: None) -> float:
    """Median time of a call, after a first one that is not counted; `between` comes before each and is not counted either."""
    function(arguments[0])
    times = []
    for argument in arguments:
        between()
        began = time.perf_counter()
        function(argument)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


# ---- the rows of a file ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Column:
    """One tensor that a stack gives, as it lies in a cache: per example what is left without the axis of the batch."""

    name: str
    # "float32" or "float64".
    dtype: str
    # Of one example: (T, M, H) of recurrent networks, (M, ...) of others; of outputs (M, C) or (M, T, C).
    shape: tuple[int, ...]
    # Where the batch stands in what the stack gives.
    batch_axis: int
    # Of the steps in `shape`; None where there are none.
    time_axis: int | None

    def field(self) -> pa.Field:
        return pa.field(self.name, pa.list_(pa.from_numpy_dtype(self.dtype), int(np.prod(self.shape))))

    def rows(self, tensor: Tensor) -> np.ndarray:
        """Rows (B, *shape) of what a stack gave on B examples; steps that their longest does not have are zero."""
        short = tensor.movedim(self.batch_axis, 0).numpy()
        rows = np.zeros((len(short), *self.shape), dtype=self.dtype)
        rows[tuple(map(slice, short.shape))] = short
        return rows

    def gather(self, blocks: Sequence[np.ndarray], index: Sequence[int], steps: int) -> Tensor:
        """The inverse: what the stack gave on the rows at `index`, cut to `steps`; `blocks`: (R, *shape) each, the last may be shorter.

        Row by row straight to its place, from (T, M, H): 0.24 ms for 24 x 32 units, 30 steps, 16 rows, 0.16 ms for 20 of the steps
        (rows as (M, T, H): 0.33 and 0.23, a shorter batch then is no run of memory; gathering before rearranging: 0.27 and 0.18).
        numpy, as torch warns of memory that it must not write to.
        """
        cut = [slice(None)] * len(self.shape)
        shape = list(self.shape)
        if self.time_axis is not None:
            cut[self.time_axis], shape[self.time_axis] = slice(steps), steps
        shape.insert(self.batch_axis, len(index))
        tensor = torch.empty(shape, dtype=getattr(torch, self.dtype))
        by_row = np.moveaxis(tensor.numpy(), self.batch_axis, 0)
        for place, row in enumerate(index):
            block, at = divmod(row, len(blocks[0]))
            where: tuple[int | slice, ...] = (at, *cut)
            by_row[place] = blocks[block][where]
        return tensor


def _columns(given: Given, examples: Examples) -> list[Column]:
    """The columns of what a stack gave on some of the examples. Raises `InputError` where it cannot be kept."""
    trajectory, outputs = given
    sequences = examples.lengths_N is not None
    longest = 0 if examples.lengths_N is None else int(examples.lengths_N.max())
    if sequences and not isinstance(trajectory, Tensor):
        # Whether an axis of such a layer grows with the steps of a batch, and how, is the network's own affair.
        raise InputError("trajectories of several layers of networks that read sequences are not kept in a cache: recompute them")

    def column(name: str, tensor: Tensor, batch_axis: int, time_axis: int | None) -> Column:
        shape = list(tensor.shape)
        del shape[batch_axis]
        if time_axis is not None:
            shape[time_axis] = longest
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in ("float32", "float64"):
            raise InputError(f"base activations of type {dtype} are not kept in a cache, float32 and float64 are: recompute them")
        return Column(name=name, dtype=dtype, shape=tuple(shape), batch_axis=batch_axis, time_axis=time_axis)

    if isinstance(trajectory, Tensor):
        columns = [column("h0", trajectory, 2, 0)]
    else:
        columns = [column(f"h{stage}", tensor, 1, None) for stage, tensor in enumerate(trajectory)]
    return [*columns, column("outputs", outputs, 1, 1 if sequences and outputs.dim() == 4 else None)]


def _row_bytes(columns: Sequence[Column]) -> int:
    return sum(int(np.prod(column.shape)) * np.dtype(column.dtype).itemsize for column in columns)


def _schema(columns: Sequence[Column], rows: int) -> pa.Schema:
    about = {"format": FORMAT, "rows": rows, "columns": [asdict(column) for column in columns]}
    return pa.schema([column.field() for column in columns], metadata={"activations": json.dumps(about)})


# ---- files -----------------------------------------------------------------------------------------------------------------


class CacheFile:
    """The cache of one stack, mapped into memory; `open_cache` opens one that is not known to be whole."""

    def __init__(self, path: Path, columns: Sequence[Column], rows: int) -> None:
        self.columns, self.rows = columns, rows
        with pa.memory_map(str(path)) as source:  # the arrays keep the mapping
            reader = pa.ipc.open_file(source)
            if not reader.schema.equals(_schema(columns, rows), check_metadata=True):
                raise Corrupted(f"{path} is a cache of other networks or other examples")
            batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        lengths = [batch.num_rows for batch in batches]
        assert sum(lengths) == rows and set(lengths[:-1]) <= {lengths[0]}, lengths  # `gather` finds a row by division
        # Of every column the blocks (R, *shape), no copies.
        self.blocks = [
            [batch[c].values.to_numpy(zero_copy_only=True).reshape(-1, *column.shape) for batch in batches]
            for c, column in enumerate(columns)
        ]

    def read(self, index: Sequence[int], steps: int) -> Given:
        """What the stack gave on the examples at `index`, the form as in `Activations`; sequences cut to `steps`."""
        *hidden, outputs = (column.gather(blocks, index, steps) for column, blocks in zip(self.columns, self.blocks, strict=True))
        return hidden[0] if self.columns[0].time_axis is not None else hidden, outputs


def _write(path: Path, columns: Sequence[Column], batches: Iterable[Given], rows: int) -> None:
    """Write and sync a file, one record batch for what a stack gave on each batch."""
    schema = _schema(columns, rows)
    with open(path, "wb") as file:
        with pa.ipc.new_file(file, schema) as writer:
            for trajectory, outputs in batches:
                tensors = [*([trajectory] if isinstance(trajectory, Tensor) else trajectory), outputs]
                blocks = [column.rows(tensor) for column, tensor in zip(columns, tensors, strict=True)]
                arrays = [
                    pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), type=field.type)
                    for block, field in zip(blocks, schema, strict=True)
                ]
                writer.write_batch(pa.record_batch(arrays, schema=schema))
        file.flush()
        os.fsync(file.fileno())


def _manifest(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def open_cache(path: Path, columns: Sequence[Column], rows: int) -> CacheFile:
    """The cache at `path`. Raises `Corrupted` unless it is what was written, whole, and holds these columns and rows."""
    try:
        whole = json.loads(path.with_suffix(".json").read_text()) == _manifest(path)
    except (OSError, ValueError):  # no manifest, or none any more
        whole = False
    if not whole:
        raise Corrupted(f"{path} is not the cache that was written (size or SHA-256 differ)")
    return CacheFile(path, columns, rows)


def _fill(path: Path, columns: Sequence[Column], batches: Iterable[Given], rows: int) -> CacheFile:
    """The cache at `path`, written unless another process just did. Nothing that a reader accepts is there until all of it is."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        # Whoever comes second waits and finds the file, and no two mix up file and manifest. What a killed writer left is overwritten.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            try:
                return open_cache(path, columns, rows)
            except Corrupted:
                pass
        try:
            _write(temporary, columns, batches, rows)
            manifest = _manifest(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        write_json(path.with_suffix(".json"), manifest)
        return CacheFile(path, columns, rows)


def _open_all(paths: Sequence[Path], columns: Sequence[list[Column]], examples: Examples) -> tuple[list[CacheFile | None], str]:
    """The caches that are there, None for one that is missing or damaged; and what is to be said about the damaged."""
    files: list[CacheFile | None] = []
    notes = ""
    for path, own in zip(paths, columns, strict=True):
        files.append(None)
        try:
            if path.exists():
                files[-1] = open_cache(path, own, len(examples))
        except Corrupted as error:
            notes += f"; {error}"
    return files, notes


def _fill_all(
    stacks: Sequence[Stacked],
    paths: Sequence[Path],
    files: Sequence[CacheFile | None],
    columns: Sequence[list[Column]],
    examples: Examples,
    batch: int,
) -> list[CacheFile]:
    """The caches of all stacks, those that are None filled."""
    return [
        file or _fill(path, own, (_run(networks, examples.select(index)) for index in _to_fill(own, examples, batch)), len(examples))
        for networks, path, file, own in zip(stacks, paths, files, columns, strict=True)
    ]


def _to_fill(columns: Sequence[Column], examples: Examples, batch: int) -> tuple[Tensor, ...]:
    """All examples, those together that a stack runs on at once: a few cost as much as many."""
    parts: tuple[Tensor, ...] = torch.arange(len(examples)).split(max(batch, min(_MOST_AT_ONCE, _BYTES_AT_ONCE // _row_bytes(columns))))
    return parts


def _seconds_to_fill(networks: Stacked, columns: Sequence[Column], examples: Examples, batch: int) -> float:
    """Of one example of a stack."""
    part = examples.select(_to_fill(columns, examples, batch)[0])
    began = time.perf_counter()
    _run(networks, part)
    return (time.perf_counter() - began) / len(part)


def _samples(
    given: Sequence[Given], columns: Sequence[list[Column]], folder: Path, batch: int, examples: int
) -> tuple[list[CacheFile], float]:
    """Files of rows like those of these stacks, and the seconds that it takes to write and hash a row of all of them."""
    if not given:
        return [], 0.0
    number = -(-min(examples, _SAMPLE_BYTES // sum(map(_row_bytes, columns)) + 1) // batch)
    # The files stay mapped when the folder is gone.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sample.") as temporary:
        files: list[CacheFile] = []
        began = time.perf_counter()
        for s, (one, own) in enumerate(zip(given, columns, strict=True)):
            path = Path(temporary) / f"{s}.arrow"
            _write(path, own, itertools.repeat(one, number), number * batch)
            _manifest(path)  # as a cache is hashed
            files.append(CacheFile(path, own, number * batch))
        return files, (time.perf_counter() - began) / (number * batch)


# ---- room ------------------------------------------------------------------------------------------------------------------


def _bytes_missing(files: Sequence[CacheFile | None], columns: Sequence[list[Column]], examples: Examples) -> int:
    return len(examples) * sum(_row_bytes(own) for file, own in zip(files, columns, strict=True) if file is None)


def _free(folder: Path) -> int:
    """Free bytes of the disk of a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free


def _require_room(files: Sequence[CacheFile | None], columns: Sequence[list[Column]], examples: Examples, folder: Path) -> None:
    missing = _bytes_missing(files, columns, examples)
    if missing and missing > (free := _free(folder)):
        raise InputError(
            f"a cache of base activations takes {_text(missing)}, and {_text(free)} are free in {folder}: make room, give another folder, "
            "or recompute"
        )


def _available_memory() -> int:
    """Bytes that programs and the page cache can still take; where the system does not say, all memory."""
    try:
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _text(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2g} ms" if seconds < 0.01 else f"{seconds * 1e3:.0f} ms"
