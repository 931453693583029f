"""The stages of an experiment: data -> population -> meta-model -> analysis -> report."""

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from dynamo_dist import analysis, storage
from dynamo_dist.analysis import averaging, suite, sweep
from dynamo_dist.analysis.emulation import Emulation, emulate_shard, merge
from dynamo_dist.commit import read_lines, write_json
from dynamo_dist.data import Dataset
from dynamo_dist.errors import InputError
from dynamo_dist.jobs import map_jobs
from dynamo_dist.metamodel import MetaModel, MetaModelConfig, checkpoint, folder
from dynamo_dist.metamodel.training import TrainingJob, partition
from dynamo_dist.population import Population
from dynamo_dist.population.reuse import reuse
from dynamo_dist.population.scheduling import FETCH, train_remaining
from dynamo_dist.population.specs import Specs, check_specs
from dynamo_dist.progress import duration, follow, say
from dynamo_dist.recipes import Recipe
from dynamo_dist.runtime import LocalRuntime, Runtime, launched, open_runtime

RESULT, ANALYSIS = "result.json", "analysis"


def train_population(
    what: Recipe | Population, out: str | Path | None = None, *, workers: int = 0, address: str | None = None
) -> Population:
    """Train a recipe's networks and commit them to the store in `out`, or the networks of a population that `Population.create` laid
    down; continue where an earlier call stopped.

    `out`: a folder, or the URI of one, such as `s3://bucket/prefix`; `workers`: Ray actors with one CPU each, 0 for this process;
    `address`: a running Ray cluster.
    """
    if isinstance(what, Population) != (out is None):
        raise InputError("train_population: give a recipe and the folder `out`, or a population, which has its folder already")
    if isinstance(what, Recipe):
        assert out is not None, "a recipe comes with a folder"
        data = what.make_data()
        specs = what.specs(data)
        check_specs(Specs.of(specs), data)  # refuse before anything starts
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
    skip_failed: bool = False,
    activations: str = "auto",
    precision: str = "float32",
    fully_shard: bool = False,
) -> MetaModel:
    """Train one meta-model of the population on `workers` workers, sharded by network (0: in this process), or continue it.

    `out`: a folder, or the URI of one; `skip_failed`: leave networks out whose files are missing or damaged, and say so;
    `activations`: of the base networks, `recompute`, `cache`, or `auto`, what is measured to be faster; `precision`: `float32`, `float64` or
    `bfloat16`; `fully_shard`: split what is shared over the workers too, for a meta-model that does not fit on each.
    """
    configs = {storage.local(out): config or MetaModelConfig()}
    how: dict[str, Any] = {"activations": activations, "precision": precision, "fully_shard": fully_shard}
    sound = folder.sound_networks(population, skip_failed=skip_failed)
    check_meta_models(population, configs, sound, workers=workers, **how)
    with open_runtime(workers, address) as runtime:
        (meta,) = train_meta_models(population, configs, runtime, sound=sound, **how)
    return meta


def check_meta_models(
    population: Population,
    configs: dict[Path, MetaModelConfig],
    sound: folder.Sound,
    *,
    workers: int,
    replace: bool = False,
    **how: Any,
) -> list[TrainingJob]:
    """The work of training these meta-models. Raises `InputError` for what it would be refused for, before anything starts or is
    written. `replace`: what the folders hold now does not count; `how`: as in `TrainingJob`."""
    jobs = []
    if how.get("fully_shard") and workers < 2:
        raise InputError("fully_shard splits what is shared over workers, and there is only one: leave it out, or use more workers")
    # Meta-models of one population share what its networks give.
    first = next(iter(configs)).resolve()
    how |= {"population": storage.address(population.path.resolve())}
    how |= {"cache": storage.address(first) if storage.mirrored(first) else str(first / "activations")}
    for path, config in configs.items():
        jobs.append(TrainingJob(out=storage.address(path.resolve()), config=config, **how))
        own = folder.new_header(path, population, config, sound)
        if not replace:
            folder.check(path, own)
        partition(population, sound.ids, config, max(1, workers))
    return jobs


def train_meta_models(
    population: Population,
    configs: dict[Path, MetaModelConfig],
    runtime: Runtime,
    *,
    sound: folder.Sound | None = None,
    look: Callable[[], None] = lambda: None,
    **how: Any,
) -> list[MetaModel]:
    """Train the meta-models that are not finished yet, in one go: workers start once. `sound`: their networks, by default all that were
    trained to their end; `look`: called in this process every few seconds while they train; `how`: as in `TrainingJob`."""
    sound = sound or folder.sound_networks(population)
    jobs = check_meta_models(population, configs, sound, workers=runtime.workers, **how)
    if runtime.leader:
        for path, config in configs.items():
            folder.prepare(path, population, config, sound)
            checkpoint.remove_leftovers(path)
    runtime.wait()
    for path in configs:
        storage.fetch(path)
    todo = [path for path in configs if not folder.is_whole(path)]
    if todo:
        say(f"meta-models: {len(todo)} to train ({', '.join(path.name for path in todo)}), {configs[todo[0]].steps} steps each")

        fetched = time.monotonic()

        def progress() -> str | None:
            nonlocal fetched
            if time.monotonic() - fetched > FETCH:
                fetched = time.monotonic()
                for path in todo:
                    storage.fetch(path / folder.PROGRESS)
            look()
            return _meta_progress(todo)

        with follow(progress):
            runtime.train([job for path, job in zip(configs, jobs, strict=True) if path in todo])
    shutil.rmtree(jobs[0].cache_path, ignore_errors=True)
    for path in todo:
        storage.fetch(path)
        for note in json.loads((path / folder.NOTES).read_text()):
            say(f"{path.name}: {note}")
    return [MetaModel.open(path) for path in configs]


def embed_result(meta: MetaModel) -> dict[str, Any]:
    """What `result.json` says of a meta-model: the losses at the checkpoint that is opened, and what was left out."""
    lines = {line["step"]: line for line in read_lines(meta.path / folder.PROGRESS)}
    last = lines[int(folder.final_checkpoint(meta.path).name.rpartition("-")[2])]
    return {
        "networks": len(meta.network_ids),
        "losses": {name: value for name, value in last.items() if name not in ("seconds", "left")},
        "notes": json.loads((meta.path / folder.NOTES).read_text()),
        "config": dataclasses.asdict(meta.config),
    }


def run_sweep(population: Population, out: Path, models: dict[str, MetaModelConfig], runtime: Runtime, **how: Any) -> dict[str, Any] | None:
    """Train the meta-models of a sweep (`sweep.settings`), each in `out/<name>`, and write `sweep.parquet`; returns what `result.json`
    holds, and None in a process that does not lead. Finished models of an earlier call are kept. `how`: as for `train_meta_models`."""
    metas = train_meta_models(population, {out / name: config for name, config in models.items()}, runtime, **how)
    if not runtime.leader:
        return None
    # The processes of torchrun train only: the one that leads scores.
    scores = _emulations(metas, LocalRuntime() if launched() else runtime, "held-out")
    rows = [sweep.row(name, meta, score) for name, meta, score in zip(models, metas, scores, strict=True)]
    pq.write_table(sweep.table(rows), out / "sweep.parquet")
    storage.publish(out / "sweep.parquet")
    say(
        "sweep, on the held-out inputs; loss: hidden + output term with lambda = 1 for all; scores: medians over networks, and the lowest R^2\n"
        + sweep.text(rows)
    )
    found = sweep.recommend(rows)
    say(f"recommended: {found.reason}")
    say(found.theta_reason)
    return {
        "networks": len(metas[0].network_ids),
        "models": [dataclasses.asdict(row) for row in rows],
        "recommended": dataclasses.asdict(found),
        "notes": {name: json.loads((meta.path / folder.NOTES).read_text()) for name, meta in zip(models, metas, strict=True)},
        "config": dataclasses.asdict(models[sweep.GIVEN]),
    }


def _meta_progress(paths: Sequence[Path]) -> str | None:
    """The last line that any of them recorded; they train in this order."""
    # On a storage there is what worker 0 writes, if it is on this machine, or what it has published.
    records = {path: file for path in paths for file in (path / folder.PROGRESS, folder.record(path)) if file.exists()}
    started = list(records)
    if not started:
        return "meta-models: workers are starting"
    last = json.loads(records[started[-1]].read_text().splitlines()[-1])
    losses = f"loss {last['loss']:.4f} (hidden {last['hidden']:.4f}, output {last['output']:.4f})"
    if folder.config_of(started[-1]).hidden_scale == "variance":  # then the hidden term is 1 - R^2
        losses += f", hidden R^2 {1 - last['hidden']:.3f}"
    which = f"{started[-1].name} ({len(started)} of {len(paths)})" if len(paths) > 1 else started[-1].name
    return f"meta-model {which}: step {last['step']}/{last['steps']}, {losses}; {duration(last['left'])} left"


def run(
    recipe: Recipe, data: dict[str, Dataset], out: Path, *, runtime: Runtime, seeds: int = 1, trained: Sequence[Path] = ()
) -> dict[str, Any]:
    """The whole experiment into `out`; returns what `result.json` holds. Finished stages of an earlier call are kept.

    `data`: what `recipe.make_data()` returned; `trained`: folders of runs or populations, whose networks are taken where they are the same.
    """
    clock = _Clock(out / "seconds.json")
    with clock("population"):
        population = Population.create(out / "population", recipe.specs(data), data, workers=runtime.workers)
        for source, networks in reuse(population, trained).items():
            say(f"population: {networks} networks are those of {storage.address(source)}, trained alike on the same data")
        train_remaining(population, runtime)
        population = Population.open(population.path)
        if recipe.copies or recipe.wider:
            population = _with_copies(recipe, population, out / "copies")
    configs = {out / f"meta-{seed}": dataclasses.replace(recipe.meta, seed=seed) for seed in range(seeds)}
    configs[out / "control"] = dataclasses.replace(recipe.meta, use_theta=False)
    with clock("meta"):
        *metas, control = train_meta_models(population, configs, runtime)
    with clock("analysis"):
        say(f"analysis: every network on its test part ({', '.join(f'{len(own.test)} {own.kind}' for own in data.values())})")
        scores = _emulations([*metas, control], runtime)
        averages = _averages(metas[0], runtime)
        analyses = _analyze(out, recipe.analyses, [meta.path for meta in metas], control.path, runtime)
    result = _result(recipe, population, metas, scores, averages)
    result["analyses"] = analyses
    result["seconds"] = clock.seconds
    np.savez(out / "embedding.npz", embedding=metas[0].embedding, ids=np.array(metas[0].network_ids))
    _write_networks(out, population, metas[0], scores[0], scores[-1])
    for name in ("embedding.npz", "networks.parquet"):
        storage.publish(out / name)
    write_json(out / RESULT, result)
    return result


def analyze(path: Path, names: Sequence[str], runtime: Runtime) -> dict[str, Any]:
    """Run these analyses (of `analysis.suite.ANALYSES`) on a run, with all its finished meta-models and its control, or on one meta-model;
    returns their summaries by name. Their files go to `analysis/NAME/` in the folder."""
    return _analyze(path, names, *check_analyses(path, names), runtime)


def check_analyses(path: Path, names: Sequence[str]) -> tuple[list[Path], Path | None]:
    """The finished meta-models of a run in the order of their seeds and its control, or the one meta-model that the folder holds. Raises
    `InputError` for an unknown analysis, and where there is no finished meta-model."""
    if unknown := [name for name in names if name not in suite.ANALYSES]:
        raise InputError(f"unknown analysis {unknown[0]!r}: the analyses are {', '.join(suite.ANALYSES)}")
    storage.fetch(path)
    seeds = sorted(int(file.parent.name.partition("-")[2]) for file in path.glob("meta-*/meta.json"))
    metas = [path] if (path / "meta.json").exists() else [path / f"meta-{seed}" for seed in seeds]
    finished = [meta for meta in metas if folder.is_finished(meta)]
    if not metas:
        raise InputError(f"{storage.address(path)} holds no meta-model: give the folder of a run, or one that `dynamo-dist embed` wrote")
    if not finished:
        raise InputError(f"{storage.address(path)}: no meta-model there is trained to its end; continue it with --resume")
    control = path / "control"
    return finished, control if (control / "meta.json").exists() and folder.is_finished(control) else None


def _analyze(path: Path, names: Sequence[str], metas: Sequence[Path], control: Path | None, runtime: Runtime) -> dict[str, Any]:
    paths, control_path = tuple(storage.address(meta.resolve()) for meta in metas), storage.address(control.resolve()) if control else None
    work = [(name, paths, control_path, storage.address((path / ANALYSIS / name).resolve())) for name in names]
    summaries: dict[str, Any] = {}
    for index, summary in map_jobs(runtime, suite.analyse, work, say):
        summaries[names[index]] = summary
        storage.fetch(path / ANALYSIS / names[index])
        say(f"analysis: {names[index]}: {summary.get('does_not_apply', 'done')} ({len(summaries)} of {len(names)})")
    return {name: summaries[name] for name in names}


def _with_copies(recipe: Recipe, population: Population, out: Path) -> Population:
    """The population that has exact copies of its networks beside them."""
    if not storage.exists(out / "population.json"):
        if storage.mirrored(out):
            storage.remove(out)  # an upload that did not end
        population = analysis.reparameterized(population, out, copies=recipe.copies, wider=recipe.wider, seed=recipe.seed)
    return Population.open(out)


class _Clock:
    """Seconds of every stage, added up over the calls that worked on one folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        storage.fetch(path)
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


def _emulations(metas: list[MetaModel], runtime: Runtime, examples: str = "test") -> list[Emulation]:
    """Scores of every network under every meta-model, the networks of each shared out among the workers. `examples`: as for
    `emulate_shard`."""
    pieces = max(1, 2 * runtime.workers)  # two a worker: the slower ones balance, and progress shows
    jobs, owner = [], []
    for number, meta in enumerate(metas):
        for piece in range(min(pieces, len(meta.network_ids))):
            jobs.append((storage.address(meta.path.resolve()), meta.network_ids[piece::pieces], examples))
            owner.append(number)
    parts: list[list[Emulation]] = [[] for _ in metas]
    for count, (index, part) in enumerate(map_jobs(runtime, emulate_shard, jobs, say), 1):
        parts[owner[index]].append(part)
        say(f"analysis: emulation scored, part {count} of {len(jobs)}")
    return [merge(part, meta.network_ids) for part, meta in zip(parts, metas, strict=True)]


def _averages(meta: MetaModel, runtime: Runtime) -> dict[str, Any]:
    vectors = averaging.average_vectors(meta)
    work = averaging.jobs(meta, vectors, max(1, runtime.workers))
    scores = [0.0] * len(vectors)
    for number, done in map_jobs(runtime, averaging.scores_at, [arguments for arguments, _ in work], say):
        for position, score in zip(work[number][1], done, strict=True):
            scores[position] = score
    say(f"analysis: {len(vectors)} vectors tested")
    return averaging.summarize(vectors, scores)


def _result(recipe: Recipe, population: Population, metas: list[MetaModel], scores: list[Emulation], averages: dict[str, Any]) -> dict[str, Any]:
    table = population.table()
    groups, accuracy = np.array(table["group"].to_pylist()), task_scores(table)
    sound = np.array(table["failed_at"].to_pylist()) < 0
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
            # Of networks that answer with classes; NaN is not JSON.
            "disputed_agreement_median": _median(score.disputed_agreement),
            "disputed_share": float(np.mean(np.concatenate(disputed))) if (disputed := list(score.disputed.values())) else None,
            "output_kl_median": _median(score.output_kl),
        }

    by_seed = [{**emulation(score), **clustering} for score, clustering in zip(scores, clusterings, strict=False)]
    return {
        "recipe": recipe.name,
        "title": recipe.title,
        "population": {
            "networks": len(population),
            "failed": int((~sound).sum()),
            "accuracy": per_group(accuracy[sound], groups[sound]),
            "test_inputs": sum(len(data.test) for data in population.datasets.values()),
        },
        "meta": {**emulation(scores[0]), "accuracy": per_group(scores[0].score, emulated), "config": dataclasses.asdict(metas[0].config)},
        "control": emulation(scores[-1]),
        "clustering": clusterings[0],
        "seeds": by_seed,
        "averaging": averages,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "cores": os.cpu_count()},
    }


def task_scores(table: Any) -> np.ndarray:
    """Of every row of `Population.table()` the accuracy, or R^2 where networks answer with values, float64."""
    accuracy, r2 = (np.array(table[name].to_pylist(), dtype=float) for name in ("accuracy", "r2"))
    return np.where(np.isnan(accuracy), r2, accuracy)


def _median(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return float(np.median(known)) if known.size else None


def _write_networks(out: Path, population: Population, meta: MetaModel, score: Emulation, control: Emulation) -> None:
    """`networks.parquet`: what is known of every embedded network, a row each."""
    import pyarrow as pa

    table = population.table()
    row = {id: index for index, id in enumerate(table["id"].to_pylist())}
    table = table.take([row[id] for id in meta.network_ids])
    columns = {
        "theta": pa.array(meta.embedding.tolist()),
        "score": pa.array(task_scores(table)),
        "meta_score": pa.array(score.score),
        "hidden_r2": pa.array(score.hidden_r2),
        "stage_r2": pa.array([list(network.stage_r2) for network in score.networks]),
        "agreement": pa.array(score.agreement),
        "disputed_agreement": pa.array(score.disputed_agreement),
        "control_hidden_r2": pa.array(control.hidden_r2),
        "control_agreement": pa.array(control.agreement),
        "control_disputed_agreement": pa.array(control.disputed_agreement),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    pq.write_table(table, out / "networks.parquet")
