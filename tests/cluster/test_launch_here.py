"""Rendered launch files at work, as far as one machine goes: array jobs, a solve over a hostfile, a Slurm job, a submitted Ray job."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from launching import example, toml, virtual_environment

from cluster.launch.config import read_config
from cluster.launch.render import render, write
from dynamo_dist import Population

COMMANDS = Path(sys.executable).parent


@pytest.fixture
def rendered(tmp_path):
    """A function that renders sections for one node with one core, this interpreter and a storage of the test's own."""

    def of(section, **keys):
        content = example(section) | {"storage": str(tmp_path / "storage"), "nodes": 1, "cpus": 1}
        content["environment"] = virtual_environment(tmp_path / "environment")
        content[section] |= keys
        config = tmp_path / "cluster.toml"
        config.write_text(toml(content))
        write(render(read_config(config)), tmp_path / "launch", overwrite=False)
        return tmp_path / "launch"

    return of


def bash(*words, before=(), **environment):
    command = [*before, "bash", *map(str, words)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=300)


def test_an_array_of_scans_finds_what_the_whole_window_holds(rendered, tmp_path):
    """A0 + p A1 of order n has n (n - 1) exceptional points."""
    rng = np.random.default_rng(0)
    for name in ("A0", "A1"):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((3, 3)) + 1j * rng.standard_normal((3, 3)))
    script = rendered("slurm", window="-200-200i:201+201i", tiles=[2, 1]) / "scan.sbatch"
    counts = []
    for task in range(2):
        arguments = [script, tmp_path / "A0.npy", "--dA", tmp_path / "A1.npy"]
        done = bash(*arguments, SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID=str(task))
        assert done.returncode == 0, done.stderr
        scan = json.loads((tmp_path / "storage" / "scan-7" / str(task) / "scan.json").read_text())
        assert scan["complete"]
        counts.append(scan["count"])
    assert sum(counts) == 6 and min(counts) > 0


def test_a_solve_runs_on_the_machines_of_the_hostfile(rendered, tmp_path):
    script = rendered("on-premise", workers=["localhost"]) / "jordan.sh"
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = bash(script, "example", "planted-block", "--out", tmp_path / "planted", **root)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "planted" / "result.json").read_text())["ranks"] == 1


@pytest.fixture
def data(tmp_path):
    """A working directory with two small groups, and recordings on the storage."""
    folder = tmp_path / "storage" / "recordings"
    folder.mkdir(parents=True)
    inputs = np.random.default_rng(0).standard_normal((40, 5, 2)).astype(np.float32)
    np.save(folder / "inputs.npy", inputs)
    np.save(folder / "mean.npy", inputs.mean(axis=(1, 2), keepdims=True)[:, 0])
    work = tmp_path / "work"
    work.mkdir()
    (work / "groups.toml").write_text(
        '[[group]]\nname = "mine"\nnetworks = 2\narchitecture = {family = "recurrent", cell = "gru", hidden = 3}\nepochs = 1\nbatch = 8\n'
    )
    return work


# `ray symmetric-run` refuses to start beside another Ray, and stops every Ray that it can see: here it sees none but its own.
ALONE = ["unshare", "--pid", "--fork", "--mount-proc"]


def no_namespaces():
    return subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode != 0


@pytest.mark.slow
@pytest.mark.skipif(no_namespaces(), reason="process namespaces need root")
def test_a_slurm_job_trains_on_a_ray_cluster_of_its_own(rendered, data, tmp_path):
    """`srun` of one task is that task; the first address of the node is its loopback."""
    commands = tmp_path / "commands"
    commands.mkdir()
    (commands / "srun").write_text('#!/bin/bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n')
    (commands / "hostname").write_text("#!/bin/bash\necho '127.0.0.1 '\n")
    for command in commands.iterdir():
        command.chmod(0o755)
    script = rendered("slurm") / "dynamo.sbatch"
    out = tmp_path / "storage" / "mine"
    arguments = [script, "train-population", data / "groups.toml", "--data", tmp_path / "storage" / "recordings", "--out", out]
    slurm = {"before": ALONE, "PATH": f"{commands}:{os.environ['PATH']}", "SLURM_NNODES": "1"}
    done = bash(*arguments, **slurm)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(Population.open(out / "population")) == 2
    assert not list((tmp_path / "storage").glob(".job-*"))  # the token goes with the job
    # What fails on the head fails the job. One that was queued again goes on.
    refused = bash(*arguments, **slurm)
    assert refused.returncode == 2 and "continue it with --resume" in refused.stdout + refused.stderr
    again = bash(*arguments, **slurm, SLURM_RESTART_COUNT="1")
    assert again.returncode == 0, again.stdout + again.stderr


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def cluster(tmp_path):
    """A Ray head with a dashboard, as the launch files start it; gives the dashboard's address and the file of the token."""
    token = tmp_path / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    port, dashboard = free_port(), free_port()
    environment = {key: value for key, value in os.environ.items() if key != "RAY_AUTH_TOKEN"}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
    environment["PATH"] = f"{COMMANDS}:{os.environ['PATH']}"  # where jobs find dynamo-dist
    command = [str(COMMANDS / "ray"), "start", "--head", "--block", "--num-cpus=1", f"--port={port}", "--node-ip-address=127.0.0.1"]
    command += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}"]
    # A temporary folder of its own: `ray stop` of another test must not meet it. Short, since sockets live in it.
    folder = Path("/tmp") / f"ray-{secrets.token_hex(4)}"
    with subprocess.Popen(
        [*command, f"--temp-dir={folder}"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as head:
        try:
            address = f"http://127.0.0.1:{dashboard}"
            deadline = time.monotonic() + 300
            while request(f"{address}/api/version", token.read_text()) != 200 and time.monotonic() < deadline:
                time.sleep(1)
            yield address, token
        finally:
            head.terminate()
            head.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)


def request(url, token=None, body=None):
    """The HTTP status of a request, None where nobody answers."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data=body, headers=headers), timeout=30).status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except OSError:
        return None


@pytest.mark.slow
def test_a_job_with_the_token_runs_and_one_without_is_refused(cluster, rendered, data, tmp_path):
    address, token = cluster
    mark = tmp_path / "ran"
    job = json.dumps({"entrypoint": f"touch {mark}"}).encode()
    assert request(f"{address}/api/jobs/", None, job) == 401
    assert request(f"{address}/api/jobs/", secrets.token_hex(32), job) == 403

    script = rendered("on-premise", workers=["localhost"]) / "submit.sh"
    out = tmp_path / "storage" / "mine"
    arguments = [script, data, "train-population", "groups.toml", "--data", tmp_path / "storage" / "recordings", "--out", out]
    where = {"RAY_API_SERVER_ADDRESS": address, "PATH": f"{COMMANDS}:{os.environ['PATH']}"}
    wrong = tmp_path / "wrong"
    wrong.write_text(secrets.token_hex(32))
    wrong.chmod(0o600)
    refused = bash(*arguments, **where, RAY_AUTH_TOKEN_PATH=str(wrong))
    assert refused.returncode != 0 and not out.exists()

    token.chmod(0o644)
    readable = bash(*arguments, **where, RAY_AUTH_TOKEN_PATH=str(token))
    assert readable.returncode == 2 and "must be readable by you alone" in readable.stderr
    token.chmod(0o600)
    done = bash(*arguments, **where, RAY_AUTH_TOKEN_PATH=str(token))
    assert done.returncode == 0, done.stdout + done.stderr
    # groups.toml came from the working directory, the networks are on the storage.
    assert len(Population.open(out / "population")) == 2 and not mark.exists()
