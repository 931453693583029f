"""The stages of an experiment: data -> population -> meta-model -> analysis -> report."""

import contextlib
import dataclasses
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamo_dist import analysis
from dynamo_dist.analysis.averaging import accuracies_at, average_vectors, summarize
from dynamo_dist.analysis.emulation import Emulation, emulate_shard, merge
from dynamo_dist.commit import write_json
from dynamo_dist.data import Dataset
from dynamo_dist.errors import InputError
from dynamo_dist.jobs import map_jobs
from dynamo_dist.metamodel import MetaModel, MetaModelConfig
from dynamo_dist.metamodel.training import PROGRESS, TrainingJob, partition
from dynamo_dist.population import Population
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.population.specs import Specs, check_specs
from dynamo_dist.progress import follow, say
from dynamo_dist.recipes import Recipe
from dynamo_dist.runtime import Runtime, open_runtime

RESULT = "result.json"


def train_population(
    what: Recipe | Population, out: str | Path | None = None, *, workers: int = 0, address: str | None = None
) -> Population:
    """Train a recipe's networks and commit them to the store in `out`, or the networks of a population that `Population.create` laid
    down; continue where an earlier call stopped.

    `workers`: Ray actors with one CPU each, 0 for this process; `address`: a running Ray cluster.
    """
    if isinstance(what, Population) != (out is None):
        raise InputError("train_population: give a recipe and the folder `out`, or a population, which has its folder already")
    if isinstance(what, Recipe):
        data = what.make_data()
        specs = what.specs(data)
        check_specs(Specs.of(specs), {"data": data})  # refuse before anything starts
        what = Population.create(out, specs, data, workers=workers)
    with open_runtime(workers, address) as runtime:
        train_remaining(what, runtime)
    return Population.open(what.path)


def train_meta_model(
    population: Population,
    out: str | Path,
    *,
    config: MetaModelConfig | None = None,
    workers: int = 0,
    address: str | None = None,
) -> MetaModel:
    """Train one meta-model of the population on `workers` workers, sharded by network (0: in this process), or continue it."""
    path = Path(out)
    partition(population, max(1, workers))  # refuse before anything starts
    with open_runtime(workers, address) as runtime:
        (meta,) = _train_meta_models(population, {path: config or MetaModelConfig()}, runtime)
    return meta


def _train_meta_models(population: Population, configs: dict[Path, MetaModelConfig], runtime: Runtime) -> list[MetaModel]:
    """Train the meta-models that are not finished yet, in one go: workers start once."""
    for path, config in configs.items():
        MetaModel.prepare(path, population, config)
    todo = [path for path in configs if not MetaModel.is_finished(path)]
    if todo:
        partition(population, max(1, runtime.workers))
        say(f"meta-models: {len(todo)} to train ({', '.join(path.name for path in todo)}), {configs[todo[0]].steps} steps each")
        with follow(lambda: _meta_progress(todo)):
            runtime.train(
                [TrainingJob(population=str(population.path.resolve()), out=str(path.resolve()), config=configs[path]) for path in todo]
            )
    return [MetaModel.open(path) for path in configs]


def _meta_progress(paths: Sequence[Path]) -> str | None:
    """The last line that any of them recorded; they train in this order."""
    started = [path for path in paths if (path / PROGRESS).exists()]
    if not started:
        return "meta-models: workers are starting"
    last = json.loads((started[-1] / PROGRESS).read_text().splitlines()[-1])
    losses = f"loss {last['loss']:.4f} (hidden {last['hidden']:.4f}, output {last['output']:.4f})"
    return f"meta-model {len(started)}/{len(paths)} ({started[-1].name}): step {last['step']}/{last['steps']}, {losses}"


def run(recipe: Recipe, data: Dataset, out: Path, *, runtime: Runtime, seeds: int = 1) -> dict[str, Any]:
    """The whole experiment into `out`; returns what `result.json` holds. Finished stages of an earlier call are kept.

    `data`: what `recipe.make_data()` returned.
    """
    clock = _Clock(out / "seconds.json")
    with clock("population"):
        population = Population.create(out / "population", recipe.specs(data), data, workers=runtime.workers)
        train_remaining(population, runtime)
        population = Population.open(population.path)
    configs = {out / f"meta-{seed}": dataclasses.replace(recipe.meta, seed=seed) for seed in range(seeds)}
    configs[out / "control"] = dataclasses.replace(recipe.meta, use_theta=False)
    with clock("meta"):
        *metas, control = _train_meta_models(population, configs, runtime)
    with clock("analysis"):
        say(f"analysis: every network on {len(data.test)} test sequences")
        scores = _emulations([*metas, control], runtime)
        averages = _averages(metas[0], runtime)
    result = _result(recipe, population, metas, scores, averages)
    result["seconds"] = clock.seconds
    np.savez(out / "embedding.npz", embedding=metas[0].embedding, ids=np.array(metas[0].network_ids))
    _write_networks(out, population, metas[0], scores[0], scores[-1])
    write_json(out / RESULT, result)
    return result


class _Clock:
    """Seconds of every stage, added up over the calls that worked on one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.monotonic() - began, 3)
            self.seconds["total"] = round(sum(seconds for name, seconds in self.seconds.items() if name != "total"), 3)
            write_json(self.path, self.seconds)


def _emulations(metas: list[MetaModel], runtime: Runtime) -> list[Emulation]:
    """Scores of every network under every meta-model, the networks of each shared out among the workers."""
    pieces = max(1, 2 * runtime.workers)  # two a worker: the slower ones balance, and progress shows
    jobs, owner = [], []
    for number, meta in enumerate(metas):
        for piece in range(min(pieces, len(meta.network_ids))):
            jobs.append((str(meta.path.resolve()), meta.network_ids[piece::pieces]))
            owner.append(number)
    parts: list[list[Emulation]] = [[] for _ in metas]
    for count, (index, part) in enumerate(map_jobs(runtime, emulate_shard, jobs, say), 1):
        parts[owner[index]].append(part)
        say(f"analysis: emulation scored, part {count} of {len(jobs)}")
    return [merge(part, meta.network_ids) for part, meta in zip(parts, metas, strict=True)]


def _averages(meta: MetaModel, runtime: Runtime) -> dict[str, Any]:
    vectors = average_vectors(meta)
    theta_PD = np.stack([theta for *_, theta in vectors])
    pieces = np.array_split(np.arange(len(vectors)), min(len(vectors), max(1, runtime.workers)))
    accuracy: dict[str, list[float]] = {}
    done = dict(map_jobs(runtime, accuracies_at, [(str(meta.path.resolve()), theta_PD[piece]) for piece in pieces], say))
    for index in sorted(done):
        for labels, values in done[index].items():
            accuracy.setdefault(labels, []).extend(values)
    say(f"analysis: {len(vectors)} vectors tested")
    return summarize(vectors, accuracy)


def _result(recipe: Recipe, population: Population, metas: list[MetaModel], scores: list[Emulation], averages: dict) -> dict[str, Any]:
    table = population.table()
    groups, accuracy = np.array(table["group"].to_pylist()), np.array(table["accuracy"].to_pylist(), dtype=float)
    sound = np.array(table["failed_at"].to_pylist()) < 0
    test = population.data.test
    labels_MN = np.stack([test.targets[population.spec(id).target].numpy() for id in metas[0].network_ids])
    meta_accuracy = (scores[0].meta_class == labels_MN).mean(axis=1)
    clusterings = [analysis.cluster(meta) for meta in metas]
    emulated = np.array([population.spec(id).group for id in metas[0].network_ids])

    def per_group(values: np.ndarray, member: np.ndarray) -> dict[str, Any]:
        return {
            name: {"mean": float(values[member == name].mean()), "sd": float(values[member == name].std())}
            for name in dict.fromkeys(member.tolist())
        }

    def emulation(score: Emulation) -> dict[str, Any]:
        return {
            "hidden_r2_min": float(score.hidden_r2.min()),
            "hidden_r2_median": float(np.median(score.hidden_r2)),
            "agreement_min": float(score.agreement.min()),
            "agreement_median": float(np.median(score.agreement)),
            # NaN is not JSON: without a disputed input there is no agreement on them.
            "disputed_agreement_median": float(np.median(score.disputed_agreement)) if score.disputed.any() else None,
            "disputed_share": float(score.disputed.mean()),
            "output_kl_median": float(np.median(score.output_kl)),
        }

    by_seed = [{**emulation(score), **clustering} for score, clustering in zip(scores, clusterings, strict=False)]
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "population": {
            "networks": len(population),
            "failed": int((~sound).sum()),
            "accuracy": per_group(accuracy[sound], groups[sound]),
            "test_sequences": len(test),
        },
        "meta": {**emulation(scores[0]), "accuracy": per_group(meta_accuracy, emulated), "config": dataclasses.asdict(metas[0].config)},
        "control": emulation(scores[-1]),
        "clustering": clusterings[0],
        "seeds": by_seed,
        "averaging": averages,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "cores": os.cpu_count()},
    }


def _write_networks(out: Path, population: Population, meta: MetaModel, score: Emulation, control: Emulation) -> None:
    """`networks.parquet`: what is known of every embedded network, a row each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = population.table()
    row = {id: index for index, id in enumerate(table["id"].to_pylist())}
    table = table.take([row[id] for id in meta.network_ids])
    columns = {
        "theta": pa.array(meta.embedding.tolist()),
        "hidden_r2": pa.array(score.hidden_r2),
        "agreement": pa.array(score.agreement),
        "disputed_agreement": pa.array(score.disputed_agreement),
        "control_hidden_r2": pa.array(control.hidden_r2),
        "control_agreement": pa.array(control.agreement),
        "control_disputed_agreement": pa.array(control.disputed_agreement),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    pq.write_table(table, out / "networks.parquet")
