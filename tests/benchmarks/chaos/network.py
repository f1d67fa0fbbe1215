"""Hosts of their own addresses on this machine: network namespaces on a bridge, whose links can be cut and healed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.benchmarks.chaos.cluster import Host

__all__ = ["Network", "missing_for_network", "open_network"]


def missing_for_network() -> str:
    """Why there can be no such network here; empty when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "nsenter"):
        if shutil.which(tool) is None:
            return f"network namespaces need the command '{tool}' (iproute2, util-linux)"
    trial = f"kd{os.getpid()}t"
    if subprocess.run(["ip", "netns", "add", trial], capture_output=True, check=False).returncode:
        return "network namespaces are not allowed here"
    _ip("netns", "del", trial)
    return ""


class Network:
    """`hosts`, each reachable from the others until it is cut off."""

    def __init__(self, hosts: list[Host], links: list[str]) -> None:
        self.hosts, self._links = hosts, dict(zip(hosts, links, strict=True))

    def cut(self, host: Host) -> None:
        """No packet passes between this host and the others; nobody is told."""
        _ip("link", "set", self._links[host], "down")

    def heal(self, host: Host) -> None:
        """Packets pass again."""
        _ip("link", "set", self._links[host], "up")


@contextmanager
def open_network(count: int) -> Iterator[Network]:
    """A bridge with `count` hosts; all of it is gone after the `with` block."""
    name, net = f"kd{os.getpid()}", f"10.{77 + os.getpid() % 100}.{os.getpid() // 100 % 250}"
    with ExitStack() as stack:
        _ip("link", "add", f"{name}b", "type", "bridge")
        stack.callback(_ip, "link", "del", f"{name}b")
        _ip("link", "set", f"{name}b", "up")
        hosts = [_add_host(stack, f"{name}b", f"{name}h{number}", f"{net}.{number}") for number in range(1, count + 1)]
        yield Network(hosts, [f"{name}h{number}" for number in range(1, count + 1)])


def _add_host(stack: ExitStack, bridge: str, name: str, address: str) -> Host:
    _ip("netns", "add", name)
    stack.callback(_ip, "netns", "del", name)
    _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
    _ip("link", "set", name, "master", bridge, "up")
    _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", name, "link", "set", device, "up")
    return Host(address, ("nsenter", f"--net=/run/netns/{name}"))


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
