"""Runs on an MLflow tracking server: a store in a folder that MLflow itself reads back, and servers that are not there or fall silent."""

import dataclasses
import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dynamo_dist import InputError, MetaModelConfig
from dynamo_dist.cli import main
from dynamo_dist.commit import read_lines
from dynamo_dist.metamodel import folder, tracking
from dynamo_dist.metamodel.tracking import FILE, TrackedRuns, mlflow_client
from dynamo_dist.pipeline import embed_result, train_meta_models
from dynamo_dist.runtime import LocalRuntime

CONFIG = MetaModelConfig(dimensions=4, hidden=8, embedding=4, steps=60, batch=16, checkpoint_every=20, held_out=0.2)
NEEDED = "mlflow is not installed: pip install '.[mlflow]'"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The address of a store that is a folder, which this version of MLflow has to be asked for."""
    pytest.importorskip("mlflow", reason=NEEDED)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (tmp_path / "store").as_uri()


def the_run(uri):
    """The one run of a store, and its client."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("dynamo-dist")
    (run,) = client.search_runs([experiment.experiment_id])
    return client, run


def history(uri, name):
    client, run = the_run(uri)
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))


def recorded(out, name):
    return [(line["step"], line[name]) for line in read_lines(out / "progress.jsonl") if name in line]


def train(population, out, uri):
    with TrackedRuns(uri, {out: CONFIG}, population) as runs:
        (meta,) = train_meta_models(population, {out: CONFIG}, LocalRuntime(), look=runs.update)
        runs.finish({out: embed_result(meta)["losses"]})
    return meta


def test_a_training_is_a_run_with_settings_curves_population_and_result(population, tmp_path, store):
    out = tmp_path / "out"
    meta = train(population, out, store)
    _, run = the_run(store)
    assert run.info.status == "FINISHED" and run.data.tags["folder"] == str(out)
    assert run.data.params == {name: str(value) for name, value in dataclasses.asdict(CONFIG).items()}
    for name, field in (("loss/training", "loss"), ("hidden/held-out", "held_out_hidden"), ("output/training", "output")):
        assert history(store, name) == recorded(out, field) and recorded(out, field)
    values, table = run.data.metrics, population.table()
    assert values["population/networks"] == len(table) and values["population/failed"] == 0
    for group in set(table["group"].to_pylist()):
        own = [row["accuracy"] for row in table.to_pylist() if row["group"] == group]
        assert values[f"population/accuracy/{tracking._key(group)}"] == pytest.approx(sum(own) / len(own))
    assert values["result/held_out_loss"] == embed_result(meta)["losses"]["held_out_loss"]


def test_every_meta_model_of_a_sweep_is_a_run(population, tmp_path, store):
    from mlflow import MlflowClient

    out, client = tmp_path / "out", MlflowClient(tracking_uri=store)
    settings = [f"--set={name}={value}" for name, value in dataclasses.asdict(CONFIG).items() if value != getattr(MetaModelConfig(), name)]
    assert main(["embed", str(population.path), "--out", str(out), "--workers", "0", "--sweep", "--mlflow", store, *settings]) == 0
    runs = client.search_runs([client.get_experiment_by_name("dynamo-dist").experiment_id])
    rows = {row["name"]: row for row in json.loads((out / "result.json").read_text())["models"]}
    assert {run.info.run_name for run in runs} == set(rows)
    for run in runs:
        row = rows[run.info.run_name]
        assert run.data.params["dimensions"] == str(row["dimensions"]) and run.data.metrics["result/hidden_r2_min"] == row["hidden_r2_min"]


def test_a_run_that_is_continued_goes_on_in_its_run_without_double_points(population, tmp_path, store):
    out = tmp_path / "out"
    train(population, out, store)
    before = the_run(store)[1].info.run_id
    # As if it had been killed after the record of its last steps and before their checkpoint: they are trained and recorded again.
    (out / "step-00000060" / "manifest.json").unlink()
    train(population, out, store)
    assert the_run(store)[1].info.run_id == before
    assert history(store, "loss/training") == recorded(out, "loss")
    assert len(history(store, "population/networks")) == 1


def test_long_records_are_sent_in_several_requests(population, tmp_path, store):
    lines = [{"step": step, "loss": 1 / step, "hidden": 0.5, "output": 0.25} for step in range(1, 1001)]
    (tmp_path / "progress.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with TrackedRuns(store, {tmp_path: CONFIG}, population):
        pass
    assert history(store, "loss/training") == [(line["step"], line["loss"]) for line in lines]


def test_a_training_that_fails_or_is_interrupted_says_so(population, tmp_path, store):
    (tmp_path / "progress.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    for error, status in ((RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")):
        with pytest.raises(error), TrackedRuns(store, {tmp_path: CONFIG}, population):
            raise error
        assert the_run(store)[1].info.status == status


def test_a_missing_package_is_one_sentence_before_anything_starts(population, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    out = tmp_path / "out"
    assert main(["embed", str(population.path), "--out", str(out), "--workers", "0", "--mlflow", "http://127.0.0.1:5000"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1 and not out.exists()
    with pytest.raises(InputError, match="mlflow is not installed: pip install 'dynamo-jordan\\[mlflow\\]'"):
        mlflow_client("http://127.0.0.1:5000")


def test_an_address_where_nothing_answers_is_refused_without_its_password():
    pytest.importorskip("mlflow", reason=NEEDED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(InputError, match="no tracking server or store answers there") as error:
            mlflow_client(f"http://me:secret@127.0.0.1:{free.getsockname()[1]}")
    assert "secret" not in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(InputError, match="no tracking server or store answers there"):
        mlflow_client("gopher://nowhere")


class Server(ThreadingHTTPServer):
    """Answers what a run needs to start, until it `fails`: then it closes every connection, or keeps it open without a word."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.fails, self.points, self.ended = "", [], threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or "{}")
        if self.server.fails == "silent":
            self.server.ended.wait(30)
        if self.server.fails:
            self.close_connection = True
            return
        self.server.points += [(one["key"], one["step"]) for one in body.get("metrics", [])]
        run = {"info": {"run_id": "a1", "experiment_id": "7", "status": "RUNNING"}, "data": {}}
        experiment = {"experiment_id": "7", "name": "dynamo-dist", "lifecycle_stage": "active"}
        answer = json.dumps({"run": run, "experiment": experiment, "run_info": run["info"], "metrics": [], "experiments": [experiment]})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer.encode())

    do_GET = do_POST

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    pytest.importorskip("mlflow", reason=NEEDED)
    with Server() as server:
        yield server
        server.ended.set()
        server.shutdown()


@pytest.mark.parametrize("fails", ["closed", "silent"])
def test_a_server_that_goes_away_neither_ends_nor_hangs_a_training(fails, server, population, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "PATIENCE", 1.0)
    out = tmp_path / "out"
    with TrackedRuns(f"http://127.0.0.1:{server.server_port}", {out: CONFIG}, population) as runs:
        server.fails = fails
        began = time.monotonic()
        train_meta_models(population, {out: CONFIG}, LocalRuntime(), look=runs.update)
        for _ in range(20):
            runs.update()
        assert folder.is_finished(out)
        capsys.readouterr()
    told = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(told) <= 1 and all("does not take what is recorded" in line for line in told)
    assert time.monotonic() - began < 30 and not (out / FILE).exists()


def test_what_a_server_missed_is_sent_when_it_is_back_and_said_once(server, population, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "PAUSE", 0.0)
    record = tmp_path / "progress.jsonl"
    with TrackedRuns(f"http://127.0.0.1:{server.server_port}", {tmp_path: CONFIG}, population) as runs:
        record.write_text('{"step": 25, "loss": 1.0}\n')
        runs.update()
        server.fails = "closed"
        with record.open("a") as file:
            file.write('{"step": 50, "loss": 0.5}\n')
        runs.update()
        runs.update()
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 1 and "training goes on, and what it misses is sent when it is back" in told[0]
        server.fails = ""
    assert capsys.readouterr() == ("", "")
    assert [step for name, step in server.points if name == "loss/training"][-1] == 50
