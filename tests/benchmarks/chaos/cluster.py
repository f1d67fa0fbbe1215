"""A closed Ray cluster of several nodes on this machine: a head without CPUs, and workers that come and go."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.harness import REPO
from tests.support.processes import Process, below, until

__all__ = ["HERE", "Cluster", "Host", "Node", "ray_environment"]

_BIN = Path(sys.executable).parent
# A node that was killed is known to be gone after seconds, not a minute; one that is merely slow is left alone.
_RAY = {
    "RAY_worker_niceness": "0",  # by default workers yield to everything else on a busy machine
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "5",
}


@dataclass(frozen=True)
class Host:
    """Where a node runs: its address, and what a command begins with to run there."""

    address: str
    prefix: tuple[str, ...] = ()


HERE = Host("127.0.0.1")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HERE.address, 0))
        return probe.getsockname()[1]


def ray_environment(folder: Path) -> dict[str, str]:
    """The environment of every node and driver: a token of this cluster's own, our packages, one thread."""
    token = folder / "token"
    if not token.exists():
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return kept | _RAY | {
        "PATH": f"{_BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPO),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
    }  # fmt: skip


class Node:
    """One `ray start --block`; what it started is below it."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, env=environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
            )
        self.log = log

    def raylet(self) -> Process | None:
        """The raylet, once it runs."""
        found = [process for process in below(self.process.pid) if "/raylet/raylet" in process.name.split(" ")[0]]
        return found[0] if found else None

    def actors(self) -> list[Process]:
        """The replicas on this node, also those that are still loading."""
        return [process for process in below(self.process.pid) if process.name.startswith("ray::TeacherActor")]

    def stop(self) -> None:
        """End it and all that is below it."""
        everything = below(self.process.pid)
        self.process.kill()
        self.process.wait()
        for process in everything:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


class Cluster:
    """`workers` are the living nodes with a CPU each; `folder` must have a short path, since sockets lie in it."""

    def __init__(self, folder: Path, environment: Mapping[str, str], hosts: Sequence[Host] = (HERE,)) -> None:
        self.folder, self.environment, self.hosts = folder, dict(environment), hosts
        self.workers: list[Node] = []
        self._nodes: list[Node] = []
        port = _free_port()
        self.address = f"{hosts[0].address}:{port}"
        ports = (f"--port={port}", f"--ray-client-server-port={_free_port()}")
        self.head = self._start(hosts[0], "--head", *ports, "--num-cpus=0", "--include-dashboard=false")
        _wait_for(self.head)

    def _start(self, host: Host, *options: str) -> Node:
        # Nodes that start at once in one folder would choose the same names for their sockets.
        command = [
            *host.prefix, str(_BIN / "ray"), "start", "--block", *options, f"--node-ip-address={host.address}",
            f"--temp-dir={self.folder / f'ray{len(self._nodes)}'}", f"--dashboard-agent-listen-port={_free_port()}",
            "--object-store-memory=80000000", "--disable-usage-stats",
        ]  # fmt: skip
        node = Node(command, self.environment, self.folder / f"node-{len(self._nodes)}.log")
        self._nodes.append(node)
        return node

    def add_worker(self, host: Host | None = None) -> Node:
        """Another node with one CPU, on the first host unless told; it joins in its own time."""
        node = self._start(host or self.hosts[0], f"--address={self.address}", "--num-cpus=1")
        self.workers.append(node)
        return node

    def lose(self, node: Node) -> None:
        """SIGKILL a worker's raylet; what else was on its node ends by itself, or is ended."""
        os.kill(_wait_for(node).pid, signal.SIGKILL)
        self.workers.remove(node)

    def drain(self, node: Node) -> None:
        """SIGTERM a worker: Ray announces its end, and ends it after 30 s at most."""
        _wait_for(node)
        node.process.terminate()
        self.workers.remove(node)

    def actors(self) -> list[Process]:
        """The replicas on all nodes, and those whose node is gone."""
        return [process for process in below(os.getpid()) if process.name.startswith("ray::TeacherActor")]

    def stop(self) -> None:
        """End all nodes, the head last."""
        for node in reversed(self._nodes):
            node.stop()


def _wait_for(node: Node) -> Process:
    """The raylet of a node that is starting."""
    until(lambda: node.raylet() or node.process.poll() is not None, f"a node is up, see {node.log}", 120)
    raylet = node.raylet()
    if raylet is None:
        raise RuntimeError(f"a node did not start: {node.log.read_text()[-2000:]}")
    return raylet
