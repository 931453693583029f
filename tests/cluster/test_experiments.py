"""The measurements as one command, and the simulation of the scheduler against what can be worked out by hand."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cluster.experiments
from cluster.experiments.scheduler_simulation import Cluster, simulate

FREE = {"start": 0.0, "restart": 0.0, "driver": 0.0, "look": 0.0, "hand_out": 0.0, "commit": 0.0, "detection": 0.0}


def command(*words):
    return subprocess.run([sys.executable, "-m", "cluster.experiments", *words], capture_output=True, text=True, timeout=120)


def test_every_measurement_is_listed_and_an_unknown_one_refused():
    listed = command()
    modules = {file.stem for file in Path(cluster.experiments.__file__).parent.glob("*.py")} - {"__init__", "__main__", "timing"}
    assert listed.returncode == 0 and modules == {line.split()[0] for line in listed.stdout.splitlines()[2:]}
    refused = command("nonsense")
    assert refused.returncode == 2 and refused.stderr.startswith("cluster.experiments: no measurement 'nonsense'; there are ")
    told = command("scheduler_simulation", "--networks", "1e6", "--chunk-seconds", "60")
    assert told.returncode == 0 and told.stdout.count("\n") == 2 + 5, told.stderr


def run(chunks, dying=frozenset(), **costs):
    return simulate(chunks, Cluster(**{**FREE, **costs}), np.random.default_rng(0), dying)


def test_without_costs_workers_are_always_busy():
    outcome = run([3.0] * 40, workers=8)
    assert outcome.seconds == pytest.approx(15) and outcome.efficiency == pytest.approx(1)


def test_a_start_and_commits_are_waited_for_by_all():
    outcome = run([3.0] * 40, workers=8, start=5.0, commit=1.0)
    assert outcome.seconds == pytest.approx(5 + 5 * 4) and outcome.lost["workers start"] == pytest.approx(5 / 25)
    assert outcome.lost["commits"] == pytest.approx(5 / 25) and outcome.efficiency == pytest.approx(15 / 25)


def test_the_longest_chunk_last_is_waited_for():
    outcome = run([1.0, 1.0, 10.0], workers=2)
    assert outcome.seconds == pytest.approx(11) and outcome.bottleneck == "the last chunks"
    assert outcome.lost["the last chunks"] == pytest.approx(10 / 22)


def test_many_workers_are_as_fast_as_their_driver():
    """Each result keeps it busy for 5 ms: 200 chunks a second, whatever the workers could do."""
    outcome = run([1.0] * 20_000, workers=5_000, hand_out=2e-3, driver=3e-3)
    assert outcome.seconds == pytest.approx(20_000 / 200, rel=0.12) and outcome.bottleneck == "wait for the driver"


def test_a_worker_that_dies_costs_half_its_chunk_and_a_restart():
    """The first chunk of one worker of two: the other goes on, and does it next."""
    outcome = run([4.0] * 4, workers=2, restart=3.0, dying=frozenset([0]))
    # One: 2 s lost, 3 s of restart, then from 5 s on a chunk. The other: chunks from 0, 4 and 8 s on.
    assert outcome.failures == 1 and outcome.seconds == pytest.approx(12)
    assert outcome.lost["failures"] == pytest.approx(5 / 24)


def test_failures_at_random_come_as_often_as_they_should():
    outcome = run([10.0] * 20_000, workers=100, between_failures=1_000.0)
    # A chunk fails with 1 - exp(-1/100), and is then tried again.
    expected = 20_000 * np.expm1(0.01)
    assert abs(outcome.failures - expected) < 4 * np.sqrt(expected)


@pytest.mark.parametrize("workers", [1, 7, 300])
def test_all_time_is_accounted_for(workers):
    chunks = np.random.default_rng(1).gamma(4.0, 5.0, 1_000).tolist()
    outcome = simulate(chunks, Cluster(workers=workers, between_failures=3_000.0), np.random.default_rng(2))
    assert outcome.failures > 0 and outcome.efficiency + sum(outcome.lost.values()) == pytest.approx(1, abs=0.01)
