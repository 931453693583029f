"""Separate hosts on this machine: namespaces with processes, a host name and folders of Ray's and shared memory of their own, joined by
pairs of virtual interfaces over a bridge. What they share is the file system, as nodes of a cluster do. Needs root."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

NETWORK = "10.77.0"
# Folders that no two hosts share.
PRIVATE = ("/tmp/ray", "/dev/shm")


def impossible() -> str | None:
    """Why there can be no such hosts here, or None."""
    try:
        with Hosts("probe"):
            return None
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return f"no network namespaces here: {said.strip()}"


def _checked(*words: object) -> str:
    return subprocess.run([*map(str, words)], check=True, capture_output=True, text=True, timeout=30).stdout


class Host:
    """`address` in the network of the test; `inside`: the words before a command that runs there; `network`: before one that has only
    its network and name, and can enter other hosts."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.address, self.link = name, f"{NETWORK}.{number}", f"port{number}"
        spaces = ["--net", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        self._init = subprocess.Popen(["unshare", *spaces, "sleep", "infinity"], stderr=subprocess.PIPE, text=True)
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        deadline = time.monotonic() + 10
        while not (found := children.read_text() if children.exists() else ""):
            if self._init.poll() is not None or time.monotonic() > deadline:
                raise OSError(self._init.communicate(timeout=1)[1] if self._init.poll() is not None else "unshare does not come up")
            time.sleep(0.02)
        self.pid = int(found)
        self.network = ["nsenter", "--target", str(self.pid), "--net", "--uts"]
        self.inside = [*self.network, "--mount", "--pid", "--ipc"]

    def run(self, *words: object) -> str:
        return _checked(*self.inside, *words)

    def fail(self) -> None:
        """The power goes: every process of the host dies at once."""
        self._init.kill()
        self._init.wait()
        self._init.stderr.close()


class Hosts:
    """Hosts by name. Use as a context manager; at its end all their processes are dead and the network is gone."""

    def __init__(self, *names: str) -> None:
        self._hosts: dict[str, Host] = {}
        self._switch = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stderr=subprocess.PIPE, text=True)
        try:
            self._start(names)
        except BaseException:
            self.close()
            raise

    def _start(self, names: tuple[str, ...]) -> None:
        own = os.readlink("/proc/self/ns/net")
        deadline = time.monotonic() + 10
        while os.readlink(f"/proc/{self._switch.pid}/ns/net") == own:
            if self._switch.poll() is not None or time.monotonic() > deadline:
                raise OSError(self._switch.communicate(timeout=1)[1] if self._switch.poll() is not None else "unshare does not come up")
            time.sleep(0.02)
        self._wire("add", "bridge0", "type", "bridge")
        self._wire("set", "bridge0", "up")
        for folder in PRIVATE:
            Path(folder).mkdir(exist_ok=True)
        for number, name in enumerate(names, 1):
            self._hosts[name] = host = Host(name, number)
            self._wire("add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.pid)
            self._wire("set", host.link, "master", "bridge0", "up")
            for folder in PRIVATE:
                host.run("mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", folder)
            host.run("hostname", name)
            host.run("ip", "link", "set", "lo", "up")
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")

    def _wire(self, *words: object) -> None:
        _checked("nsenter", "--target", self._switch.pid, "--net", "ip", "link", *words)

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    def __iter__(self):
        return iter(self._hosts.values())

    def cut(self, name: str) -> None:
        """Pull the host's cable."""
        self._wire("set", self[name].link, "down")

    def heal(self, name: str) -> None:
        self._wire("set", self[name].link, "up")

    def close(self) -> None:
        for host in self._hosts.values():
            host.fail()
        self._switch.kill()
        self._switch.wait()
        self._switch.stderr.close()

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@contextlib.contextmanager
def ray_on(network, **environment):
    """Ray on these hosts, one core each, the head none; gives the address."""
    head = network["head"]
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats", "--object-store-memory=200000000"]
    started = []
    try:
        for host in network:
            own = ["--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false"] if host is head else ["--num-cpus=1"]
            own += [] if host is head else [f"--address={head.address}:6379"]
            command = [*host.inside, *ray, *own, f"--node-ip-address={host.address}"]
            started.append(subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            if host is head:
                answers = f"import socket; socket.create_connection(('{head.address}', 6379), timeout=1)"
                deadline = time.monotonic() + 60
                while subprocess.run([*head.inside, sys.executable, "-c", answers], stderr=subprocess.DEVNULL).returncode:
                    assert time.monotonic() < deadline, "the head does not come up"
                    time.sleep(0.5)
        count = f"import ray; ray.init('{head.address}:6379', log_to_driver=False); print(int(ray.cluster_resources().get('CPU', 0)))"
        deadline = time.monotonic() + 90
        command = [*head.inside, sys.executable, "-c", count]
        while subprocess.run(command, env=os.environ | environment, stdout=subprocess.PIPE, check=True).stdout.split()[-1] != b"2":
            assert time.monotonic() < deadline, "the workers do not join"
        yield f"{head.address}:6379"
    finally:
        for process in started:
            process.kill()
            process.wait()
