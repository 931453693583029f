"""A Ray cluster of several nodes on this machine, each with a raylet of its own, in a process beside the test's.

Ray reads its settings when it is imported and keeps what it learned of a token for as long as the process lives: a test must not do either.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path


class Raylets:
    """`address` and `token` of the cluster; `logs`: the folder of its logs; nodes are numbered, 0 is the head."""

    def __init__(self, *cpus: int, **settings: str) -> None:
        """`cpus`: of every node; `settings`: Ray's own, `RAY_...`."""
        self.token = secrets.token_hex(32)
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_USAGE_STATS_ENABLED": "0", **settings}
        command = [sys.executable, __file__, *map(str, cpus)]
        # The processes of the nodes outlive this one where it is killed: they are ended as one group.
        self.process = subprocess.Popen(
            command, env=os.environ | self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        told = self._answer()
        self.address, self.logs = told["address"], Path(told["logs"])
        self.raylets = dict(enumerate(told["raylets"]))

    def _answer(self) -> dict:
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError("the cluster did not start")

    def kill(self, node: int) -> None:
        """SIGKILL of a node's raylet; its workers end with it."""
        os.kill(self.raylets[node], signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL of every process of the cluster, the head's too."""
        os.killpg(self.process.pid, signal.SIGKILL)

    def replace(self, node: int) -> None:
        """A fresh node in the place of one whose raylet was killed."""
        self.process.stdin.write(f"{node}\n")
        self.process.stdin.flush()
        self.raylets[node] = self._answer()["raylet"]

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=60)
        with contextlib.suppress(ProcessLookupError):
            self.kill_all()
        self.process.wait()
        self.process.stdout.close()

    def __enter__(self) -> "Raylets":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def main() -> None:
    from ray.cluster_utils import Cluster

    cpus = [int(word) for word in sys.argv[1:]]
    cluster = Cluster()
    settings = {"object_store_memory": 100_000_000, "include_dashboard": False}
    nodes = [cluster.add_node(num_cpus=count, **settings) for count in cpus]
    cluster.wait_for_nodes()

    def raylet(node) -> int:
        return node.all_processes["raylet"][0].process.pid

    print(json.dumps({"address": cluster.address, "logs": nodes[0].get_logs_dir_path(), "raylets": [*map(raylet, nodes)]}), flush=True)
    for line in sys.stdin:
        number = int(line)
        cluster.remove_node(nodes[number], allow_graceful=False)
        nodes[number] = cluster.add_node(num_cpus=cpus[number], **settings)
        print(json.dumps({"raylet": raylet(nodes[number])}), flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
