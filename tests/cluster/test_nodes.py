"""Several nodes, as far as one machine can be several: Ray nodes side by side, and hosts with a network between them."""

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import hosts
import numpy as np
import pytest
import torch
from launching import example, toml, virtual_environment
from raylets import Raylets
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from cluster.launch.config import read_config
from cluster.launch.render import render, write
from dynamo_dist import Population
from jordan_dist.problems.planted import EIGENVALUE

pytestmark = pytest.mark.slow
COMMANDS = Path(sys.executable).parent
RUN = [str(COMMANDS / "dynamo-dist"), "run", "valence", "--size", "tiny", "--workers", "2"]


def run_here(*words, before=(), timeout=300, **environment):
    done = subprocess.run(
        [*before, *map(str, words)], env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=timeout
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def one_node(tmp_path_factory):
    """The run on this machine alone."""
    out = tmp_path_factory.mktemp("one") / "run"
    run_here(*RUN, "--out", out)
    return out


def weights(run):
    stacks = Population.open(run / "population").stacks()
    return {(id, name): p[row] for stack in stacks for row, id in enumerate(stack.ids) for name, p in stack.networks.tensors.items()}


def assert_same_run(out, reference):
    """The same population weights, bit for bit, and the same clusters of embedding vectors."""
    ours, theirs = weights(out), weights(reference)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], p) for key, p in theirs.items())
    found, expected = (np.load(run / "embedding.npz") for run in (out, reference))
    assert found["ids"].tolist() == expected["ids"].tolist()
    # Workers are summed in the order in which they meet: rounding of float32, through 100 steps of Adam.
    np.testing.assert_allclose(found["embedding"], expected["embedding"], atol=1e-3 * np.abs(expected["embedding"]).max())
    labels = [KMeans(2, n_init=20, random_state=0).fit_predict(run["embedding"]) for run in (found, expected)]
    assert adjusted_rand_score(*labels) == 1
    ours, theirs = (json.loads((run / "result.json").read_text()) for run in (out, reference))
    assert ours["population"] == theirs["population"] and ours["clustering"] == theirs["clustering"]


def test_three_ray_nodes_are_one(one_node, tmp_path):
    with Raylets(0, 1, 1) as nodes:
        run_here(*RUN, "--address", nodes.address, "--out", tmp_path / "run", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=nodes.token)
        strange = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        command = [*RUN, "--address", nodes.address, "--out", str(tmp_path / "strange")]
        refused = subprocess.run(command, env={**os.environ, **strange}, capture_output=True, text=True, timeout=120)
    assert refused.returncode == 2 and "cannot connect to the Ray cluster there" in refused.stderr and not (tmp_path / "strange").exists()
    assert_same_run(tmp_path / "run", one_node)


def test_a_head_and_two_workers_over_a_network(one_node, network, tmp_path):
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    with hosts.ray_on(network, **token) as address:
        run_here(*RUN, "--address", address, "--out", tmp_path / "run", before=network["head"].inside, **token)
    assert_same_run(tmp_path / "run", one_node)


def test_a_solve_over_two_hosts(network, tmp_path):
    """`jordan.sh` and `hostfile` as they are rendered; mpirun enters hosts where it would use SSH."""
    content = example("on-premise") | {"storage": str(tmp_path / "storage"), "nodes": 2, "cpus": 1}
    content["environment"] = virtual_environment(tmp_path / "environment")
    content["on-premise"] |= {"workers": [network[name].address for name in ("worker-1", "worker-2")]}
    (tmp_path / "cluster.toml").write_text(toml(content))
    write(render(read_config(tmp_path / "cluster.toml")), tmp_path / "launch", overwrite=False)
    cases = "".join(f'{host.address}) exec {" ".join(host.inside)} bash -c "$*" ;;\n' for host in network)
    agent = tmp_path / "enter"
    agent.write_text(f'#!/bin/bash\naddress=$1; shift\ncase "$address" in\n{cases}esac\nexit 1\n')
    agent.chmod(0o755)
    mpi = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMPI_MCA_mpi_yield_when_idle": "1"}
    mpi |= {"OMPI_MCA_plm_rsh_agent": str(agent), "OMPI_MCA_btl_tcp_if_include": "eth0", "OMPI_MCA_oob_tcp_if_include": "eth0"}
    where = run_here(
        "mpirun", "--hostfile", tmp_path / "launch" / "hostfile", "-n", 2, "hostname", before=network["head"].network, **mpi
    ).stdout.split()
    assert sorted(where) == ["worker-1", "worker-2"]
    solve = ["example", "planted-block", "--out", tmp_path / "planted"]
    run_here("bash", tmp_path / "launch" / "jordan.sh", *solve, before=network["head"].network, **mpi)
    result = json.loads((tmp_path / "planted" / "result.json").read_text())
    assert result["ranks"] == 2
    assert abs(complex(*result["eigenvalue"]) - EIGENVALUE) < 1e-6
