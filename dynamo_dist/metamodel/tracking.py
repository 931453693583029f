"""The record of meta-models as runs on an MLflow tracking server, beside `progress.jsonl`."""

import dataclasses
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from dynamo_dist.commit import read_lines, write_json
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.events import points
from dynamo_dist.metamodel.folder import PROGRESS
from dynamo_dist.population import Population
from dynamo_dist.population.store import group_means
from dynamo_dist.progress import say

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

FILE = "mlflow.json"  # in the folder of a meta-model: its run on the server
EXPERIMENT = "dynamo-dist"
# Seconds that a call may take: training never waits longer, whatever the server does.
PATIENCE = 15.0
# Seconds after a failure in which the server is left alone.
PAUSE = 60.0
LINES = 150  # in one request, which may carry 1000 values
# What the client may do is bounded; a user who has set one of these knows why.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # `update` tries again, and its sentence is the only one
    "MLFLOW_DISABLE_TELEMETRY": "true",  # it would tell its makers of every call
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output has what a command promises
}

T = TypeVar("T")


def mlflow_client(uri: str) -> "MlflowClient":
    """A client of the tracking server or store at `uri`, which has answered. Raises `InputError` where the package is missing, and where
    nothing answers."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise InputError("--mlflow: the package mlflow is not installed: pip install 'dynamo-jordan[mlflow]', or leave it out") from None
    try:

        def ask() -> MlflowClient:
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
            return client

        return _within(PATIENCE, ask)
    except Exception as error:  # the client raises what its transport and its stores raise
        raise InputError(
            f"--mlflow {_public(uri)}: no tracking server or store answers there ({_reason(error)}); give the address of one, for example "
            "http://127.0.0.1:5000, or leave it out"
        ) from None


class TrackedRuns:
    """Runs of several meta-models on a tracking server, one for each: the configuration as parameters, the losses along training, means
    over the groups of the population, and the numbers of the result.

    They are made from the record alone, by the one process that starts the training: `update` sends what was recorded since. A server that
    goes away costs one sentence and a bounded time; what it missed is sent when it is back, or by continuing the run. A run that is
    continued goes on in its run on the server: steps that it trains again are there already. Use as a context manager.
    """

    def __init__(self, uri: str | None, configs: Mapping[Path, MetaModelConfig], population: Population) -> None:
        """`uri`: of the server; without one nothing is sent."""
        if uri:
            self._client = mlflow_client(uri)
        self._uri, self._population = _public(uri or ""), population
        self._configs = configs if uri else {}
        self._runs: dict[Path, str] = {}
        # Steps that the server has; of a folder that is not in here it is asked.
        self._sent: dict[Path, set[int]] = {}
        self._results: dict[Path, dict[str, float]] = {}
        self._failed_at: float | None = None

    def __enter__(self) -> "TrackedRuns":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._failed_at = None  # the last chance: without a pause
        status = "FINISHED" if kind is None else "KILLED" if kind is KeyboardInterrupt else "FAILED"
        self._attempt(lambda: self._send(status), "send the rest by the same command with --resume")

    def update(self) -> None:
        """Send what was recorded since the last call."""
        self._attempt(self._send, "training goes on, and what it misses is sent when it is back")

    def finish(self, results: Mapping[Path, Mapping[str, Any]]) -> None:
        """The numbers that came out, of every meta-model; what else is among them is left out."""
        self._results = {path: dict(_numbers(result)) for path, result in results.items()}

    def _attempt(self, work: Callable[[], None], then: str) -> None:
        if self._failed_at is not None and time.monotonic() - self._failed_at < PAUSE:
            return
        try:
            work()
        except InputError:
            raise
        except Exception as error:  # the client raises what its transport and its stores raise, and nothing of it may end a training
            self._sent.clear()  # whether the last values arrived is not known
            if self._failed_at is None:
                say(f"MLflow: {self._uri} does not take what is recorded ({_reason(error)}); {then}")
            self._failed_at = time.monotonic()
        else:
            self._failed_at = None

    def _send(self, status: str = "") -> None:
        for path in self._configs:
            lines = read_lines(path / PROGRESS)
            if not lines:
                continue
            if path not in self._sent:
                self._sent[path] = self._open(path)
            new = [line for line in lines if line["step"] not in self._sent[path]]
            for start in range(0, len(new), LINES):
                part = new[start : start + LINES]
                self._log(path, [(name, value, line["step"]) for line in part for name, value in points(line)])
                self._sent[path].update(line["step"] for line in part)
            if path in self._results:
                self._log(path, [(f"result/{name}", value, lines[-1]["step"]) for name, value in self._results[path].items()])
            if status:
                _within(PATIENCE, partial(self._client.set_terminated, self._runs[path], status))

    def _open(self, path: Path) -> set[int]:
        """Go on with the run of a folder, or start one; returns the steps that it has."""
        file = path / FILE
        known = json.loads(file.read_text()) if file.exists() else {}
        if known.get("uri") != self._uri:
            known = {"uri": self._uri, "run": _within(PATIENCE, lambda: self._create(path))}
            write_json(file, known)
        run = self._runs[path] = str(known["run"])
        history = _within(PATIENCE, lambda: self._describe(path, run))
        return {point.step for point in history}

    def _create(self, path: Path) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        tags = {"folder": str(path.resolve()), "population": str(self._population.path.resolve())}
        return str(self._client.create_run(number, run_name=path.name, tags=tags).info.run_id)

    def _describe(self, path: Path, run: str) -> "list[Metric]":
        """Give the run what holds for all of it, unless it has it; returns the losses that it has."""
        from mlflow.entities import Metric, Param

        settings = dataclasses.asdict(self._configs[path])
        now = int(time.time() * 1000)
        counted = [Metric(_key(name), value, now, 0) for name, value in aggregates(self._population)]
        has = self._client.get_run(run).data.metrics
        self._client.log_batch(
            run,
            metrics=[metric for metric in counted if metric.key not in has],
            params=[Param(name, str(value)) for name, value in settings.items()],
        )
        self._client.update_run(run, status="RUNNING")
        return list(self._client.get_metric_history(run, "loss/training"))

    def _log(self, path: Path, values: Sequence[tuple[str, float, int]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_key(name), value, now, step) for name, value, step in values]
        _within(PATIENCE, partial(self._client.log_batch, self._runs[path], metrics=metrics))


def aggregates(population: Population) -> list[tuple[str, float]]:
    """What is told of a population: how many networks it has and how many of them failed, and the mean score of every group on its test
    part. Of one with damaged files only how many it has."""
    counted = [("population/networks", float(len(population)))]
    try:
        table = population.table()
    except InputError:  # the meta-model leaves the damaged chunks out, where that was asked for
        return counted
    counted.append(("population/failed", float(len(table) - table["failure"].null_count)))
    scores = [(kind, group, mean) for kind in ("accuracy", "r2") for group, mean in group_means(table, kind).items()]
    return counted + [(f"population/{kind}/{group.replace('/', '_')}", mean) for kind, group, mean in scores if mean is not None]


def _numbers(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, int | float) and math.isfinite(value):
            yield name, float(value)


def _key(name: str) -> str:
    """The name as the server takes it."""
    return re.sub(r"[^\w\-. /:]", "_", name)[:250]


def _public(uri: str) -> str:
    """The address without a password in it."""
    return re.sub(r"//[^/@]*@", "//", uri)


def _reason(error: Exception) -> str:
    return (_public(str(error)).strip() or type(error).__name__).splitlines()[0][:200]


def _within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns. Raises `TimeoutError` when it takes longer; it then ends by itself, or with the program."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        return outcome.result(timeout=seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
