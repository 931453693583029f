"""The store of a population: one folder.

population/
  population.json          format, hashes of the data sets
  data/<name>.safetensors  the data sets, read by every worker from here
  specs.parquet            one row per network: its specification
  plan.parquet             one row per network, in the order of the chunks: its row in specs.parquet, its chunk and its cost
  journal.jsonl            append-only, one line per committed chunk: its name, its first position in the plan, its networks
  chunks/<hash of specs>/  weights.safetensors, results.parquet, manifest.json

On storage given by a URI (see `storage`) nothing is appended: the journal is a folder, journal/<first position>-<networks>-<chunk>.json.
"""

import dataclasses
import json
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from dynamo_dist import storage
from dynamo_dist.commit import (
    MANIFEST,
    Corrupted,
    append_line,
    check_name,
    commit_folder,
    damage,
    read_lines,
    sha256,
    understood,
    verify_folder,
    write_json,
)
from dynamo_dist.data import Dataset
from dynamo_dist.errors import InputError
from dynamo_dist.networks import Stacked, stack_of
from dynamo_dist.networks.architecture import from_dict
from dynamo_dist.population.plan import Chunk, Plan, costs, make_plan
from dynamo_dist.population.specs import SCHEMA, NetworkSpec, Specs, check_specs, digest
from dynamo_dist.population.training import measured_bytes

FORMAT = 2
# Threads that verify committed files: hashing leaves Python's lock.
_VERIFIERS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """Trained networks of one architecture, ready to run together; `ids` in the order of the stack."""

    ids: tuple[str, ...]
    networks: Stacked


@dataclasses.dataclass(frozen=True, kw_only=True)
class Results:
    """What is recorded of the networks of a chunk, a value per network."""

    # Mean training loss at the end; None for a network that was not trained here.
    loss: Sequence[float | None]
    curve: list[list[float]]
    steps: list[int]
    # Share of the answers on the test part that are right; None for networks that answer with values.
    accuracy: Sequence[float | None]
    # R^2 of the answers on the test part; None for networks that answer with classes.
    r2: Sequence[float | None]
    # Step at which it was frozen because its gradient was not finite, or -1.
    failed_at: list[int]
    # Why it was not trained to the end, or None.
    failure: Sequence[str | None]

    SCHEMA = pa.schema(
        [
            ("loss", pa.float64()),
            ("curve", pa.list_(pa.float64())),
            ("steps", pa.int64()),
            ("accuracy", pa.float64()),
            ("r2", pa.float64()),
            ("failed_at", pa.int64()),
            ("failure", pa.string()),
        ]
    )

    def table(self, ids: Sequence[str]) -> pa.Table:
        columns = {name: pa.array(getattr(self, name), type_) for name, type_ in zip(self.SCHEMA.names, self.SCHEMA.types, strict=True)}
        return pa.table({"id": pa.array(ids, pa.string()), **columns})


_RESULTS = pa.schema([("id", pa.string()), *Results.SCHEMA])


class Population:
    """A population on disk. Complete when every specified network is in a committed chunk."""

    def __init__(self, path: str | Path) -> None:
        self.path = storage.local(path)
        # Chunks that were fetched and verified in this process.
        self._here: set[str] = set()
        header = self.path / "population.json"
        storage.fetch(header)
        if not header.exists():
            raise InputError(f"{storage.address(self.path)} holds no population (no population.json there); give the folder that training wrote")
        with understood(header):
            self.header = json.loads(header.read_text())
            if self.header["format"] != FORMAT:
                raise InputError(
                    f"{storage.address(self.path)} has population format {self.header['format']}, and this version reads {FORMAT}: "
                    "train it again in a new folder"
                )
            for name in self.header["data"].keys():
                check_name(header, name)
        for name in ("specs.parquet", "plan.parquet"):
            storage.fetch(self.path / name)
        with understood(self.path / "specs.parquet"):
            self.specs = Specs(pq.read_table(self.path / "specs.parquet").cast(SCHEMA))
        with understood(self.path / "plan.parquet"):
            plan = pq.read_table(self.path / "plan.parquet")
            order, chunk_N = plan["row"].to_numpy(), plan["chunk"].to_numpy()
            if not np.array_equal(np.sort(order), np.arange(len(self.specs))):
                raise ValueError("its rows are not those of specs.parquet, each once")
            bounds = np.concatenate([[0], np.flatnonzero(np.diff(chunk_N)) + 1, [len(chunk_N)]])
            self.plan = Plan(order=order, bounds=bounds, costs=plan["cost"].to_numpy())

    # ---- making one ------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: str | Path,
        specs: Iterable[NetworkSpec],
        data: Dataset | Mapping[str, Dataset],
        *,
        workers: int = 1,
        bytes_per_network: Callable[[NetworkSpec, Dataset], int] | None = None,
    ) -> "Population":
        """Lay down an empty population and its plan, or return the one that is there if it is the same; refuse to mix two.

        `path`: a folder, or the URI of one, such as `s3://bucket/prefix`; `data`: one data set, or several by name; `workers`: how many will
        train it; `bytes_per_network`: memory that one more network in a stack takes, measured if it is not given.
        """
        datasets = {"data": data} if isinstance(data, Dataset) else dict(data)
        specs, path = Specs.of(specs), storage.local(path)
        check_specs(specs, datasets)
        (path / "data").mkdir(parents=True, exist_ok=True)
        hashes = {}
        for name, dataset in datasets.items():
            new = path / "data" / f".{name}.safetensors.new"
            dataset.save(new)
            hashes[name] = sha256(new)
        fresh = not storage.exists(path / "population.json")
        if fresh:
            storage.fetch(path)  # nothing: a mirror may hold what was there before
        for name in datasets:
            new = path / "data" / f".{name}.safetensors.new"
            new.replace(path / "data" / f"{name}.safetensors") if fresh else new.unlink()
        if not fresh:
            there = cls(path)
            if there.specs != specs or there.header["data"] != hashes:
                raise InputError(
                    f"{storage.address(path)} holds a population of other networks or other data; choose another folder, or use --overwrite"
                )
            return there
        pq.write_table(specs.table, path / "specs.parquet")
        measure = bytes_per_network or measured_bytes
        plan = make_plan(
            specs,
            costs(specs, {name: dataset.input_shape for name, dataset in datasets.items()}),
            workers=workers,
            bytes_per_network=lambda spec: measure(spec, datasets[spec.data]),
        )
        chunk = np.repeat(np.arange(len(plan)), np.diff(plan.bounds))
        pq.write_table(pa.table({"row": plan.order, "chunk": chunk, "cost": plan.costs}), path / "plan.parquet")
        (path / "chunks").mkdir(exist_ok=True)
        for name in ("data", "specs.parquet", "plan.parquet"):
            storage.publish(path / name)
        # The header comes last: a folder without it is no population.
        write_json(path / "population.json", {"format": FORMAT, "networks": len(specs), "data": hashes})
        return cls(path)

    @classmethod
    def from_modules(
        cls,
        modules: Mapping[str, torch.nn.Module] | Sequence[torch.nn.Module],
        *,
        data: Dataset,
        out: str | Path,
        target: str | Mapping[str, str] | Sequence[str] | None = None,
        groups: Mapping[str, str] | Sequence[str] | None = None,
        computations: Mapping[str, str] | Sequence[str] | None = None,
        hidden: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        arguments: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]] | None = None,
    ) -> "Population":
        """A complete population of networks that were trained elsewhere, written to `out`, a new or empty folder.

        `modules`: by id, or in a sequence; of any architectures and widths. `target`: which target of `data` all or each learned, the
        only one by default. `groups`: by default the architecture's short name. `computations`: by default the group. What is given per
        network is a mapping by id or a sequence in the order of `modules`.

        Networks of one recurrent layer (torch's RNN, GRU, LSTM or our UGRNN: one direction, biases), an embedding where inputs are
        tokens and a linear readout become `Recurrent`, if they give its outputs on `data` within rounding. All others stay what they are
        and need `hidden`, the names of the submodules whose outputs are the hidden trajectory (for all, or by id), and `arguments`,
        the keyword arguments of their constructors as JSON values; their classes must be importable.

        Raises `InputError` that names the network, and writes nothing, when one cannot be made again with the same outputs.
        """
        from dynamo_dist.population.imported import import_modules  # it builds on this file

        return import_modules(
            modules, data=data, out=out, target=target, groups=groups, computations=computations, hidden=hidden, arguments=arguments
        )

    def chunk_specs(self, chunk: Chunk) -> list[NetworkSpec]:
        return list(self.specs.take(self.plan.rows(chunk)))

    def chunk_name(self, specs: Sequence[NetworkSpec]) -> str:
        """Of the networks of a chunk: a hash of their specifications and of the data."""
        return digest(specs, self.header["data"][specs[0].data])

    def commit(self, name: str, specs: Sequence[NetworkSpec], networks: Stacked, results: Results) -> None:
        """Commit trained networks as the chunk `name`."""

        def write(folder: Path) -> None:
            save_file({key: t.contiguous() for key, t in networks.tensors.items()}, folder / "weights.safetensors")
            pq.write_table(results.table([spec.id for spec in specs]), folder / "results.parquet")

        commit_folder(self.chunk_path(name), write)

    def is_committed(self, name: str) -> bool:
        """Whether a chunk's folder is there and whole."""
        return storage.exists(self.chunk_path(name) / MANIFEST)

    def record(self, name: str, chunk: Chunk) -> None:
        """Enter a committed chunk in the journal. Only the process that runs the population does this."""
        line = {"chunk": name, **dataclasses.asdict(chunk)}
        if storage.mirrored(self.path):
            (self.path / "journal").mkdir(exist_ok=True)
            write_json(self._journal_line(name, chunk), line)
        else:
            append_line(self.path / "journal.jsonl", line)

    def _journal_line(self, name: str, chunk: Chunk) -> Path:
        """The line of a chunk in a journal that is a folder. Its name says it all: who lists the folder has read the journal."""
        return self.path / "journal" / f"{chunk.first}-{chunk.networks}-{name}.json"

    def _strike(self, damaged: Collection[str]) -> None:
        """Take these chunks out of the journal."""
        if storage.mirrored(self.path):
            for name, chunk in self.committed().items():
                if name in damaged:
                    storage.remove(self._journal_line(name, chunk))
            return
        lines = [json.dumps(line) + "\n" for line in read_lines(self.path / "journal.jsonl") if line["chunk"] not in damaged]
        new = self.path / ".journal.jsonl.new"
        new.write_text("".join(lines))
        new.replace(self.path / "journal.jsonl")

    def publish(self, path: Path) -> None:
        """Take this population, which lies on this machine alone, to the folder `path` of a storage. It is there when its header is."""
        (self.path / "journal").mkdir()
        for name, chunk in self.committed().items():
            write_json(self._journal_line(name, chunk), {"chunk": name, **dataclasses.asdict(chunk)})
        (self.path / "journal.jsonl").unlink()
        storage.publish(path, source=self.path, last="population.json")

    def remaining(self) -> list[Chunk]:
        """Chunks, or parts of them, that are not recorded, in the order of the plan."""
        return self.plan.remaining(self.committed().values())

    def set_damaged_aside(self) -> list[str]:
        """Verify every recorded chunk; take those that are not what was committed out of the journal, and their folders out of the way.

        Returns one sentence for each. Their networks are then among the remaining ones.
        """
        damaged = self.damaged()
        if damaged:
            self._strike(damaged)
            for name in damaged:
                if self.chunk_path(name).exists():
                    # What begins with a dot stays in the mirror.
                    dot = "." if storage.mirrored(self.path) else ""
                    self.chunk_path(name).rename(self.path / f"{dot}damaged-{name}-{uuid.uuid4().hex[:8]}")
                storage.remove(self.chunk_path(name), first=MANIFEST)
        return [f"{wrong}; its networks are trained again" for wrong in damaged.values()]

    def damaged(self) -> dict[str, str]:
        """Recorded chunks that are not what was committed: what is wrong with each, by name."""
        committed = self.committed()
        storage.fetch(self.path / "chunks")
        with ThreadPoolExecutor(_VERIFIERS) as pool:
            found = pool.map(lambda name: damage(self.chunk_path(name)), committed)
            return {name: wrong for name, wrong in zip(committed, found, strict=True) if wrong}

    # ---- reading it ------------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Path) -> "Population":
        """A complete population; every committed file is verified.

        Raises `InputError` when there is none, when networks are missing, or when a file is not what was committed.
        """
        population = cls(path)
        missing = len(population) - sum(chunk.networks for chunk in population.committed().values())
        if missing:
            where = storage.address(population.path)
            raise InputError(f"{where}: {missing} of {len(population)} networks are not trained yet; continue the run with --resume")
        committed = population.committed()
        storage.fetch(population.path / "chunks")
        with ThreadPoolExecutor(_VERIFIERS) as pool:
            list(pool.map(lambda name: verify_folder(population.chunk_path(name)), committed))
        population._here |= committed.keys()
        return population

    def committed(self) -> dict[str, Chunk]:
        """Recorded chunks by name, each once. Raises `Corrupted` if a network is in two."""
        mirrored = storage.mirrored(self.path)
        journal = self.path / ("journal" if mirrored else "journal.jsonl")
        with understood(journal):
            if mirrored:
                fields = [name.removesuffix(".json").split("-") for name in storage.names(journal)]
                lines = [{"chunk": name, "first": first, "networks": networks} for first, networks, name in fields]
            else:
                lines = read_lines(journal)
            chunks = {line["chunk"]: Chunk(first=int(line["first"]), networks=int(line["networks"])) for line in lines}
            for name in chunks:
                check_name(journal, name)
        end = 0
        for chunk in sorted(chunks.values()):
            if chunk.first < end or chunk.stop > len(self):
                raise Corrupted(
                    f"{storage.address(journal)} names the networks from position {chunk.first} twice; restore it, or use --overwrite"
                )
            end = chunk.stop
        return chunks

    def chunk_path(self, name: str) -> Path:
        return self.path / "chunks" / name

    @cached_property
    def datasets(self) -> dict[str, Dataset]:
        """The data sets by name."""
        return {name: self.dataset(name) for name in self.header["data"]}

    def dataset(self, name: str) -> Dataset:
        path = self.path / "data" / f"{name}.safetensors"
        storage.fetch(path)
        if storage.mirrored(path) and sha256(path) != self.header["data"][name]:
            raise Corrupted(f"{storage.address(path)} is not the data set that the population was made with (SHA-256 differs)")
        with understood(path):
            return Dataset.open(path)

    @property
    def data(self) -> Dataset:
        """The data set of a population that has only one."""
        if len(self.header["data"]) > 1:
            raise InputError(f"{self.path} has several data sets ({', '.join(self.header['data'])}): take one from `datasets`")
        return next(iter(self.datasets.values()))

    @property
    def network_ids(self) -> tuple[str, ...]:
        return self.specs.ids

    def ids(self, **columns: str) -> tuple[str, ...]:
        """Ids of the networks with these values in their specifications, for example `ids(group="leaky gru-32", data="english")`."""
        table = self.specs.table
        for name, value in columns.items():
            if name not in table.column_names:
                raise InputError(f"networks have no column {name!r}: their columns are {', '.join(table.column_names)}")
            table = table.filter(pc.equal(table[name].cast(pa.string()), str(value)))
        return tuple(table["id"].to_pylist())

    def sound_ids(self, *, without: Collection[str] = ()) -> tuple[str, ...]:
        """Ids of the networks that were trained to their end, leaving out the chunks of these names; in the order of `network_ids`."""
        rows = [np.empty(0, dtype=np.int64)]
        kept = {name: chunk for name, chunk in self.committed().items() if name not in without}
        for chunk, results in zip(kept.values(), self._all_results(kept), strict=True):
            rows.append(self.plan.rows(chunk)[results["failed_at"].to_numpy() < 0])
        return tuple(self.specs.ids[row] for row in np.sort(np.concatenate(rows)))

    def spec(self, id: str) -> NetworkSpec:
        """The specification of a network."""
        return self.specs[self.specs.row(id)]

    def __len__(self) -> int:
        return len(self.specs)

    def results(self, name: str) -> pa.Table:
        """What is recorded of the networks of a chunk, a row each."""
        storage.fetch(self.chunk_path(name) / "results.parquet")
        return self._read_results(name)

    def _all_results(self, names: Iterable[str]) -> Iterator[pa.Table]:
        storage.fetch(self.path / "chunks", "results.parquet")
        return map(self._read_results, names)

    def _read_results(self, name: str) -> pa.Table:
        # One small file: `read_table` prepares for a data set of many, and takes three times as long.
        path = self.chunk_path(name) / "results.parquet"
        with understood(path), pq.ParquetFile(path) as file:
            return file.read(use_threads=False).cast(_RESULTS)

    def table(self) -> pa.Table:
        """Specifications and results, a row per network in the order of `network_ids`; of a population that is still in training, the
        networks that are done. The column `architecture` is the short name."""
        specs = self.specs.table
        labels = specs["architecture"].combine_chunks()
        names = pa.array([_label(text) for text in labels.dictionary.to_pylist()])
        specs = specs.set_column(specs.schema.get_field_index("architecture"), "architecture", names.take(labels.indices))
        committed = self.committed()
        if not committed:
            return specs.slice(0, 0)
        results = pa.concat_tables(self._all_results(committed))
        rows = np.concatenate([self.plan.rows(chunk) for chunk in committed.values()])
        order = np.argsort(rows)
        specs = specs.take(pa.array(rows[order]))
        results = results.take(pa.array(order))
        for name in Results.SCHEMA.names:
            specs = specs.append_column(name, results[name])
        return specs

    def stacks(self, ids: Iterable[str] | None = None, *, networks: int | None = None) -> Iterator[Stack]:
        """The trained networks (or those named), stacked: all of one architecture together, or at most `networks` at a time; in the
        order of `network_ids` within an architecture."""
        rows = np.arange(len(self)) if ids is None else np.sort([self.specs.row(id) for id in ids])
        code, _ = self.specs.codes("architecture")
        position = np.empty(len(self), dtype=np.int64)
        position[self.plan.order] = np.arange(len(self))
        chunks = sorted((chunk.first, name) for name, chunk in self.committed().items())
        firsts = np.array([first for first, _ in chunks])
        if storage.mirrored(self.path):
            owners = np.unique(np.searchsorted(firsts, position[rows], side="right") - 1)
            self._bring({chunks[owner][1] for owner in owners})
        for architecture in dict.fromkeys(code[rows].tolist()):
            mine = rows[code[rows] == architecture]
            size = networks or len(mine)
            load = lru_cache(maxsize=4)(lambda name: load_file(self.chunk_path(name) / "weights.safetensors"))
            for start in range(0, len(mine), size):
                part = mine[start : start + size]
                yield Stack(
                    ids=tuple(self.specs.ids[row] for row in part), networks=self._stack(part, position[part], firsts, chunks, load)
                )

    def _stack(
        self,
        rows: np.ndarray,
        positions: np.ndarray,
        firsts: np.ndarray,
        chunks: Sequence[tuple[int, str]],
        load: Callable[[str], dict[str, torch.Tensor]],
    ) -> Stacked:
        """Networks at these rows from the chunks that hold them, each chunk read once."""
        owner = np.searchsorted(firsts, positions, side="right") - 1
        tensors: dict[str, torch.Tensor] = {}
        for chunk in np.unique(owner):
            there = np.flatnonzero(owner == chunk)
            first, name = chunks[chunk]
            with understood(self.chunk_path(name) / "weights.safetensors"):
                for key, stored in load(name).items():
                    if key not in tensors:
                        tensors[key] = stored.new_empty(len(rows), *stored.shape[1:])
                    tensors[key][there] = stored[positions[there] - first]
        return stack_of(self.specs[int(rows[0])].architecture, tensors)

    def _bring(self, names: set[str]) -> None:
        """Have these chunks in the mirror. Raises `Corrupted` where a fetched one is not what was committed."""

        def bring(name: str) -> None:
            storage.fetch(self.chunk_path(name))
            verify_folder(self.chunk_path(name))
            self._here.add(name)

        with ThreadPoolExecutor(_VERIFIERS) as pool:
            list(pool.map(bring, names - self._here))

    def network(self, id: str) -> torch.nn.Module:
        """One network as a plain `torch.nn.Module`."""
        (stack,) = self.stacks([id])
        return stack.networks.network(0)


def group_means(table: pa.Table, column: str) -> dict[str, float]:
    """Mean of a column of `Population.table()` over the networks of each group that have it."""
    means = table.select(["group", column]).group_by("group", use_threads=False).aggregate([(column, "mean")])
    return dict(zip(means["group"].to_pylist(), means[f"{column}_mean"].to_pylist(), strict=True))


def _label(architecture: str) -> str:
    return from_dict(json.loads(architecture)).label
