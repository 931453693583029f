"""The store of a population: one folder.

population/
  population.json          format, name of the data set's hash
  data.safetensors         the data set, read by every actor from here
  specs.parquet            one row per network: its specification
  journal.jsonl            append-only, one line per committed chunk
  chunks/<hash of specs>/  weights.safetensors, results.parquet, manifest.json
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from dynamo_dist.commit import MANIFEST, append_line, commit_folder, read_lines, sha256, verify_folder, write_json
from dynamo_dist.data import Dataset
from dynamo_dist.errors import InputError
from dynamo_dist.networks import Stacked, stack_of
from dynamo_dist.population.plan import Chunk
from dynamo_dist.population.specs import NetworkSpec, check_specs
from dynamo_dist.population.training import TrainedChunk

FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """Trained networks of one architecture, ready to run together; `ids` in the order of the stack."""

    ids: tuple[str, ...]
    networks: Stacked


class Population:
    """A population on disk. Complete when every specified network is in a committed chunk."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        header = self.path / "population.json"
        if not header.exists():
            raise InputError(f"{self.path} holds no population (no population.json there); give the folder that training wrote")
        self.header = json.loads(header.read_text())
        if self.header["format"] != FORMAT:
            raise InputError(f"{self.path} has population format {self.header['format']}; this version reads {FORMAT}")
        table = pq.read_table(self.path / "specs.parquet")
        self.specs = tuple(NetworkSpec.from_json(text) for text in table["spec"].to_pylist())
        self.by_id = {spec.id: spec for spec in self.specs}

    # ---- making one ------------------------------------------------------------------------------------------------------

    @classmethod
    def create(cls, path: Path, specs: Sequence[NetworkSpec], data: Dataset) -> "Population":
        """Lay down an empty population, or return the one that is there if it is the same; refuse to mix two."""
        check_specs(specs, targets=data.outputs, available=len(data.base))
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        new = path / ".data.safetensors.new"
        data.save(new)
        digest = sha256(new)
        if (path / "population.json").exists():
            new.unlink()
            there = cls(path)
            if there.specs != tuple(specs) or there.header["data_sha256"] != digest:
                raise InputError(f"{path} holds a population of other networks or other data; choose another folder, or use --overwrite")
            return there
        new.replace(path / "data.safetensors")
        columns = {
            "id": [s.id for s in specs],
            "group": [s.group for s in specs],
            "computation": [s.computation for s in specs],
            "architecture": [s.architecture.label for s in specs],
            "seed": [s.seed for s in specs],
            "samples": [s.samples for s in specs],
            "spec": [s.to_json() for s in specs],
        }
        pq.write_table(pa.table(columns), path / "specs.parquet")
        (path / "chunks").mkdir(exist_ok=True)
        # The header comes last: a folder without it is no population.
        write_json(path / "population.json", {"format": FORMAT, "networks": len(specs), "data_sha256": digest})
        return cls(path)

    def commit(self, chunk: Chunk, trained: TrainedChunk, results: dict[str, list]) -> None:
        """Commit a trained chunk; `results`: further columns, a value per network."""

        def write(folder: Path) -> None:
            tensors = {name: p.contiguous() for name, p in trained.networks.tensors.items()}
            save_file(tensors, folder / "weights.safetensors", metadata={"ids": json.dumps([s.id for s in chunk.specs])})
            columns = {"id": [s.id for s in chunk.specs], "loss": trained.loss, "failed_at": trained.failed_at, **results}
            pq.write_table(pa.table(columns), folder / "results.parquet")

        commit_folder(self.chunk_path(chunk.name), write)

    def is_committed(self, name: str) -> bool:
        """Whether a chunk's folder is there and whole."""
        return (self.chunk_path(name) / MANIFEST).exists()

    def record(self, name: str, networks: int) -> None:
        """Enter a committed chunk in the journal. Only the process that runs the population does this."""
        append_line(self.path / "journal.jsonl", {"chunk": name, "networks": networks})

    def remaining(self) -> list[NetworkSpec]:
        """Networks that are in no recorded chunk."""
        done = {id for name in self.committed() for id in self._ids(name)}
        return [spec for spec in self.specs if spec.id not in done]

    # ---- reading it ------------------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | Path) -> "Population":
        """A complete population; every committed file is verified.

        Raises `InputError` when there is none, when networks are missing, or when a file is not what was committed.
        """
        population = cls(Path(path))
        missing = len(population.specs) - sum(population.committed().values())
        if missing:
            raise InputError(f"{path}: {missing} of {len(population.specs)} networks are not trained yet; continue the run with --resume")
        for name in population.committed():
            verify_folder(population.chunk_path(name))
        return population

    def committed(self) -> dict[str, int]:
        """Committed chunks by name, with their numbers of networks, each once."""
        return {line["chunk"]: line["networks"] for line in read_lines(self.path / "journal.jsonl")}

    def chunk_path(self, name: str) -> Path:
        return self.path / "chunks" / name

    @property
    def data(self) -> Dataset:
        """The data set that it was trained on."""
        return Dataset.open(self.path / "data.safetensors")

    @property
    def network_ids(self) -> tuple[str, ...]:
        return tuple(spec.id for spec in self.specs)

    def __len__(self) -> int:
        return len(self.specs)

    def table(self) -> pa.Table:
        """Specifications and results, a row per network in the order of `network_ids`."""
        specs = pq.read_table(self.path / "specs.parquet").drop_columns(["spec"])
        results = pa.concat_tables(pq.read_table(self.chunk_path(name) / "results.parquet") for name in self.committed())
        row = {id: index for index, id in enumerate(results["id"].to_pylist())}
        results = results.take(pa.array([row[id] for id in self.network_ids]))
        for name in results.column_names:
            if name != "id":
                specs = specs.append_column(name, results[name])
        return specs

    def stacks(self, ids: Sequence[str] | None = None) -> Iterator[Stack]:
        """The trained networks (or those named), stacked: all of one architecture together, in the order of `network_ids`."""
        wanted = self.network_ids if ids is None else [id for id in self.network_ids if id in set(ids)]
        parts: dict[str, tuple[Stacked, int]] = {}
        for name in self.committed():
            stack = self._chunk(name)
            parts.update({id: (stack.networks, position) for position, id in enumerate(stack.ids)})
        for architecture in dict.fromkeys(self.by_id[id].architecture for id in wanted):
            mine = [id for id in wanted if self.by_id[id].architecture == architecture]
            rows = [{name: p[parts[id][1]] for name, p in parts[id][0].tensors.items()} for id in mine]
            stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            yield Stack(ids=tuple(mine), networks=stack_of(architecture, stacked))

    def _chunk(self, name: str) -> Stack:
        ids = self._ids(name)
        parameters = load_file(self.chunk_path(name) / "weights.safetensors")
        return Stack(ids=tuple(ids), networks=stack_of(self.by_id[ids[0]].architecture, parameters))

    def _ids(self, name: str) -> list[str]:
        return pq.read_table(self.chunk_path(name) / "results.parquet", columns=["id"])["id"].to_pylist()

    def network(self, id: str) -> torch.nn.Module:
        """One network as a plain `torch.nn.Module`."""
        if id not in self.by_id:
            raise InputError(f"no network {id!r} in {self.path}; its networks are {', '.join(self.network_ids[:5])}, ...")
        (stack,) = self.stacks([id])
        return stack.networks.network(0)
