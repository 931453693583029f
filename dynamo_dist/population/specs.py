"""What one network of a population is, and a million of them in columns."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dynamo_dist.data import Dataset
from dynamo_dist.data.augmentation import KINDS
from dynamo_dist.errors import InputError
from dynamo_dist.networks.architecture import Architecture, Convolutional, Recurrent, from_dict, to_dict

SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSpec:
    """Everything that determines one trained network, given the data sets."""

    # Unique name in the population.
    id: str
    # Networks made alike; the unit of averages and tables.
    group: str
    # What it computes, the truth that clusters are judged against: groups of several architectures may share it.
    computation: str
    architecture: Architecture
    # Which data set of the population it learns from.
    data: str = "data"
    # Which target of the data set it learns.
    target: str
    # Seed of its initial parameters, of the order of its data and of its augmentation.
    seed: int
    # The first `samples` examples of its own shuffle of the labelled part.
    samples: int
    batch: int = 64
    # Passes over them. 0, of 0 samples: it was trained elsewhere and imported.
    epochs: int = 1
    learning_rate: float = 3e-3
    # Factor of the learning rate along training: "cosine" (a tenth of the steps up, then half a cosine down) or "constant".
    schedule: str = "cosine"
    # Norm to which its gradient is clipped.
    clip: float = 1.0
    # Decay of all parameters per unit of learning rate (decoupled, AdamW).
    weight_decay: float = 0.0
    # Of images: "none", "crop_flip", "cutout" or "mixup".
    augmentation: str = "none"
    # Share of its samples that is held out to decide when to stop.
    validation: float = 0.0
    # Stop after so many epochs without a lower loss on what is held out, and keep the best parameters; 0: train to the end.
    patience: int = 0

    def __post_init__(self) -> None:
        for field in ("batch", "learning_rate", "clip", *(() if self.imported else ("samples", "epochs"))):
            if not getattr(self, field) > 0:
                raise InputError(f"network {self.id}: {field}={getattr(self, field)}: expected a positive number")
        if self.schedule not in SCHEDULES:
            raise InputError(f"network {self.id}: schedule={self.schedule!r}: expected one of {', '.join(SCHEDULES)}")
        if self.augmentation not in KINDS:
            raise InputError(f"network {self.id}: augmentation={self.augmentation!r}: expected one of {', '.join(KINDS)}")
        if self.weight_decay < 0 or self.patience < 0 or not 0 <= self.validation < 1:
            raise InputError(
                f"network {self.id}: weight_decay={self.weight_decay}, patience={self.patience}, validation={self.validation}: "
                "expected no negative number, and a share below 1"
            )
        if self.patience and not self.held_out:
            raise InputError(f"network {self.id}: patience={self.patience} needs examples held out; set validation, for example 0.1")
        if not self.imported and self.samples - self.held_out < self.batch:
            raise InputError(
                f"network {self.id}: batch={self.batch} is larger than its {self.samples - self.held_out} samples; use a smaller batch"
            )

    @property
    def imported(self) -> bool:
        """Trained elsewhere."""
        return self.samples == 0 and self.epochs == 0

    @property
    def held_out(self) -> int:
        """Examples held out for early stopping, of its `samples`."""
        return round(self.validation * self.samples)

    @property
    def steps_per_epoch(self) -> int:
        """An incomplete last batch of an epoch is left out."""
        return (self.samples - self.held_out) // self.batch

    @property
    def steps(self) -> int:
        """Training steps, unless it stops early."""
        return self.epochs * self.steps_per_epoch

    def to_json(self) -> str:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return json.dumps({**values, "architecture": to_dict(self.architecture)}, sort_keys=True)


# What is the same for many networks is stored once.
_REPEATED = ("group", "computation", "architecture", "data", "target", "schedule", "augmentation")
_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
_CODES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        (field.name, _CODES if field.name in _REPEATED else _TYPES[getattr(field.type, "__name__", str(field.type))])
        for field in dataclasses.fields(NetworkSpec)
    ]
)
# Specifications turned into columns at a time: bounds the memory that objects take.
_BLOCK = 50_000


@lru_cache(maxsize=10_000)
def _architecture_text(architecture: Architecture) -> str:
    return json.dumps(to_dict(architecture), sort_keys=True)


@lru_cache(maxsize=10_000)
def _architecture(text: str) -> Architecture:
    return from_dict(json.loads(text))


class Specs(Sequence[NetworkSpec]):
    """Specifications in columns, because a million objects would take several times as much. Behaves as a sequence of `NetworkSpec`."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table.unify_dictionaries().combine_chunks()

    @classmethod
    def of(cls, specs: Iterable[NetworkSpec]) -> "Specs":
        """From any iterable, which may produce them one by one."""
        if isinstance(specs, Specs):
            return specs
        source, parts = iter(specs), []
        while block := list(islice(source, _BLOCK)):
            columns = {}
            for name, type_ in zip(SCHEMA.names, SCHEMA.types, strict=True):
                values = [getattr(spec, name) for spec in block]
                if name == "architecture":
                    values = [_architecture_text(value) for value in values]
                columns[name] = pa.array(values, pa.string()).dictionary_encode() if type_ == _CODES else pa.array(values, type_)
            parts.append(pa.table(columns, schema=SCHEMA))
        if not parts:
            raise InputError("a population of no networks: give at least one specification")
        return cls(pa.concat_tables(parts))

    def __len__(self) -> int:
        rows: int = self.table.num_rows
        return rows

    @overload
    def __getitem__(self, row: int) -> NetworkSpec: ...
    @overload
    def __getitem__(self, row: slice) -> "Specs": ...
    def __getitem__(self, row: int | slice) -> "NetworkSpec | Specs":
        if isinstance(row, slice):
            start, stop, step = row.indices(len(self))
            return Specs(self.table.take(pa.array(range(start, stop, step))))
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return next(iter(self.take([row % len(self)])))

    def __iter__(self) -> Iterator[NetworkSpec]:
        for batch in self.table.to_batches(max_chunksize=_BLOCK):
            for fields in batch.to_pylist():
                yield NetworkSpec(**{**fields, "architecture": _architecture(fields["architecture"])})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Specs) and _plain(self.table).equals(_plain(other.table))

    def take(self, rows: Sequence[int] | np.ndarray) -> "Specs":
        """Those of these rows, in this order."""
        return Specs(self.table.take(pa.array(np.asarray(rows, dtype=np.int64))))

    def codes(self, *names: str) -> tuple[np.ndarray, int]:
        """A number per network, equal where all these columns are equal, and how many numbers there are: int64 (N,), int."""
        code, count = np.zeros(len(self), dtype=np.int64), 1
        for name in names:
            _, new = np.unique(self.values(name), return_inverse=True)
            _, code = np.unique(code * (int(new.max()) + 1) + new, return_inverse=True)
            count = int(code.max()) + 1
        return code, count

    def values(self, name: str) -> np.ndarray:
        """A column of numbers, or the codes of a repeated one, (N,)."""
        column = self.table[name].combine_chunks()
        values: np.ndarray = (column.indices if isinstance(column, pa.DictionaryArray) else column).to_numpy(zero_copy_only=False)
        return values

    @cached_property
    def ids(self) -> tuple[str, ...]:
        return tuple(self.table["id"].to_pylist())

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {id: row for row, id in enumerate(self.ids)}

    def row(self, id: str) -> int:
        """Row of a network. Raises `InputError` for one that is not there."""
        if id not in self._row_of:
            raise InputError(f"no network {id!r}; the population's networks are {', '.join(self.ids[:5])}{', ...' if len(self) > 5 else ''}")
        return self._row_of[id]

    def steps_per_epoch(self) -> np.ndarray:
        """As the property of `NetworkSpec`, for all, int64 (N,)."""
        samples = self.values("samples")
        held_out = np.round(self.values("validation") * samples).astype(np.int64)
        steps: np.ndarray = (samples - held_out) // self.values("batch")
        return steps


def _plain(table: pa.Table) -> pa.Table:
    """Repeated columns as plain strings: the order of a dictionary is no difference."""
    return table.cast(pa.schema([(f.name, pa.string() if f.type == _CODES else f.type) for f in table.schema])).combine_chunks()


def own_samples(spec: NetworkSpec, available: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Indices of the examples that a network trains on and of those held out, and the generator that goes on: its seed's alone."""
    rng = np.random.default_rng([spec.seed, 1])
    own = rng.permutation(available)[: spec.samples]
    training = spec.samples - spec.held_out
    return own[:training], own[training:], rng


def check_specs(specs: Specs, data: Mapping[str, Dataset]) -> None:
    """Raise `InputError`, naming the network and the field, unless ids are unique and every network fits its data set."""
    counts = pc.value_counts(specs.table["id"])
    if len(counts) != len(specs):
        repeated = next(entry["values"].as_py() for entry in counts if entry["counts"].as_py() > 1)
        raise InputError(f"two networks have the id {repeated!r}: ids must be unique in a population")
    # One network of each kind stands for all: a million are checked in a second.
    code, _ = specs.codes("architecture", "data", "target", "augmentation")
    _, first = np.unique(code, return_index=True)
    for spec in specs.take(np.sort(first)):
        if spec.data not in data:
            raise InputError(f"network {spec.id}: data={spec.data!r} is not in the population, which has: {', '.join(sorted(data))}")
        _check_fit(spec, data[spec.data])
    names = specs.table["data"].combine_chunks()
    available = np.array([len(data[name].base) if name in data else 0 for name in names.dictionary.to_pylist()])[specs.values("data")]
    beyond = np.flatnonzero(specs.values("samples") > available)
    if len(beyond):
        spec = specs[int(beyond[0])]
        raise InputError(f"network {spec.id}: samples={spec.samples}, but the labelled part has {available[beyond[0]]} examples")


def _check_fit(spec: NetworkSpec, data: Dataset) -> None:
    if spec.target not in data.outputs:
        raise InputError(
            f"network {spec.id}: target={spec.target!r} is not in the data set, which has: {', '.join(sorted(data.outputs))}"
        )
    output, net = data.outputs[spec.target], spec.architecture
    wanted: dict[str, object] = {"outputs": output.size}
    if isinstance(net, Recurrent):
        if data.kind == "images":
            raise InputError(f"network {spec.id}: a recurrent network cannot read images; use a convolutional architecture")
        # What was trained elsewhere may know more words than the data hold.
        larger = spec.imported and data.vocabulary is not None and (net.vocabulary or 0) >= data.vocabulary
        wanted |= {"vocabulary": net.vocabulary if larger else data.vocabulary, "every_step": output.every_step}
        if data.kind == "values":
            wanted["features"] = data.input_shape[0]
    elif isinstance(net, Convolutional):
        if data.kind != "images":
            raise InputError(f"network {spec.id}: a convolutional network reads images, and its data set holds {data.kind}")
        wanted["channels"] = data.input_shape[0]
    for field, value in wanted.items():
        if getattr(net, field) != value:
            raise InputError(f"network {spec.id}: architecture.{field}={getattr(net, field)}, but its data set has {value}")
    if spec.augmentation != "none":
        if data.kind != "images":
            raise InputError(f"network {spec.id}: augmentation={spec.augmentation!r} is for images, and its data set holds {data.kind}")
        if spec.augmentation == "mixup" and output.kind != "classes":
            raise InputError(f"network {spec.id}: augmentation='mixup' mixes classes, and the target {spec.target!r} has values")


def digest(specs: Iterable[NetworkSpec], data: str) -> str:
    """Name of a chunk: a hash of its specs and of the data set, so that training it twice is harmless."""
    text = "\n".join([data, *(spec.to_json() for spec in specs)])
    return hashlib.sha256(text.encode()).hexdigest()[:20]
