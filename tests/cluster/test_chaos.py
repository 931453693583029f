"""A population in training on a cluster that is disturbed on purpose. Passed is: every network exactly once and bit for bit that of the
undisturbed run, at most one chunk repeated for each disturbance, the CPUs free afterwards, and no failed check in Ray's logs."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import hosts
import load
import numpy as np
import pytest
from raylets import Raylets

from dynamo_dist import Population
from dynamo_dist.population.scheduling import train_remaining
from dynamo_dist.runtime import LocalRuntime

pytestmark = pytest.mark.slow
# How soon Ray's head takes a silent node for dead: 3 s here, 15 s by default.
WATCH = {"RAY_health_check_period_ms": "500", "RAY_health_check_timeout_ms": "2000", "RAY_health_check_failure_threshold": "3"}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return load.calm(tmp_path_factory.mktemp("calm") / "population")


class Training:
    """A training on a cluster, and what it says, line by line."""

    def __init__(self, *arguments, **keywords):
        self.process = load.train(*arguments, **keywords)
        self.lines = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        with self.process.stderr as lines:
            self.lines.extend(iter(lines.readline, ""))

    def wait_for(self, condition, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None and time.monotonic() < deadline, "".join(self.lines)
            time.sleep(0.05)

    def said(self, text):
        return sum(text in line for line in self.lines)

    def end(self, seconds=150):
        status = self.process.wait(timeout=seconds)
        self._reader.join()
        return status


def assert_free(address, cpus, environment, before=()):
    """All CPUs are free again within 60 s."""
    deadline = time.monotonic() + 60
    command = [*before, sys.executable, "-c", load.COUNT, address]
    while True:
        done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
        if done.returncode == 0 and float(done.stdout.split()[-1]) == cpus:
            return
        assert time.monotonic() < deadline, done.stdout + done.stderr


def assert_no_failed_check(logs):
    assert any(logs.iterdir())
    for log in logs.rglob("*.*"):
        if log.is_file():
            assert "Check failed" not in log.read_text(errors="replace"), log


def test_machines_that_are_killed_under_load(calm, tmp_path):
    """Twice SIGKILL of a raylet, a fresh node in its place each time."""
    store = load.lay_down(tmp_path / "population")
    with Raylets(0, 1, 1, **WATCH) as nodes:
        training = Training(store.path, nodes.address, environment=nodes.environment)
        for number, node in enumerate((1, 2), 1):
            recorded = load.chunks_recorded(store.path)
            training.wait_for(lambda recorded=recorded: load.chunks_recorded(store.path) > recorded)
            training.wait_for(lambda: len(list((store.path / "progress").glob("*.json"))) == 2)
            nodes.kill(node)
            # What was lost is tried at once, so the second may lose it again.
            training.wait_for(lambda number=number: training.said("are tried again") == number)
            nodes.replace(node)
        assert training.end() == 0, "".join(training.lines)
        assert training.said("was lost; networks") == 2 and training.said("are tried again") == 2
        assert_free(nodes.address, 2, nodes.environment)
        assert_no_failed_check(nodes.logs)
    load.assert_same(store.path, calm)


def test_a_lost_head_is_resumed(calm, tmp_path):
    store = load.lay_down(tmp_path / "population")
    with Raylets(0, 1, 1, RAY_gcs_rpc_server_reconnect_timeout_s="5") as nodes:
        training = Training(store.path, nodes.address, environment=nodes.environment)
        training.wait_for(lambda: load.chunks_recorded(store.path) >= 2)
        nodes.kill_all()
        assert training.end(60) != 0  # it ends by itself
    before = load.chunks_recorded(store.path)
    with Raylets(2) as nodes:
        training = Training(store.path, nodes.address, environment=nodes.environment)
        assert training.end() == 0, "".join(training.lines)
        assert_free(nodes.address, 2, nodes.environment)
        assert_no_failed_check(nodes.logs)
    assert before < len(store.plan)
    load.assert_same(store.path, calm)


def test_a_network_that_is_cut_and_healed(calm, network, tmp_path):
    """For a second, which nobody notices; then for good, as far as Ray is concerned: what comes back is another node."""
    store = load.lay_down(tmp_path / "population")
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "RAY_USAGE_STATS_ENABLED": "0", **WATCH}
    head = network["head"]
    with hosts.ray_on(network, **environment) as address:
        training = Training(store.path, address, before=head.inside, environment=environment)
        training.wait_for(lambda: len(list((store.path / "progress").glob("*.json"))) == 2)
        network.cut("worker-1")
        time.sleep(1)
        network.heal("worker-1")
        recorded = load.chunks_recorded(store.path)
        training.wait_for(lambda: load.chunks_recorded(store.path) >= recorded + 2)
        assert not training.said("are tried again")
        network.cut("worker-2")
        training.wait_for(lambda: training.said("are tried again (2 of 10)"))
        network.heal("worker-2")
        assert training.end() == 0, "".join(training.lines)
        assert training.said("are tried again") == 1
        assert_free(address, 1, environment, before=head.inside)
        logs = tmp_path / "logs"
        head.run("cp", "-rL", "/tmp/ray/session_latest/logs", logs)
        assert_no_failed_check(logs)
    load.assert_same(store.path, calm)


def test_a_preempted_command_ends_within_its_grace_and_is_resumed(tmp_path):
    """SIGTERM, as Slurm and clouds send it some 30 s before they kill."""
    data = tmp_path / "recordings"
    data.mkdir()
    inputs = np.random.default_rng(0).standard_normal((400, 20, 2)).astype(np.float32)
    np.save(data / "inputs.npy", inputs)
    np.save(data / "mean.npy", inputs.mean(axis=(1, 2), keepdims=True)[:, 0])
    groups = "".join(
        f'[[group]]\nname = "{name}"\nnetworks = 8\narchitecture = {{family = "recurrent", cell = "{name}", hidden = 8}}\n'
        "epochs = 30\nbatch = 16\n"
        for name in ("gru", "lstm", "rnn")
    )
    (tmp_path / "groups.toml").write_text(groups)
    out = tmp_path / "out"
    command = [Path(sys.executable).parent / "dynamo-dist", "train-population", tmp_path / "groups.toml", "--data", data, "--out", out]
    with subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stderr:
            if re.search(r"[1-9]\d* of 24 networks trained and committed|step \d", line):
                break
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 130 and time.monotonic() - began < 30, rest
    assert "interrupted; what was committed is kept, continue with --resume" in rest and "Traceback" not in rest
    # The undisturbed run of the same plan.
    shutil.copytree(out / "population", tmp_path / "calm", ignore=shutil.ignore_patterns("journal.jsonl", "progress"))
    shutil.rmtree(tmp_path / "calm" / "chunks")
    (tmp_path / "calm" / "chunks").mkdir()
    train_remaining(Population(tmp_path / "calm"), LocalRuntime())
    done = subprocess.run([*map(str, command), "--resume"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    load.assert_same(out / "population", tmp_path / "calm")
