"""What every node of a cluster has: asked by a small task pinned to each."""

import os
import platform
from typing import Any

from cluster.connect import import_ray

__all__ = ["node_findings", "storage_finding"]

Finding = tuple[str, str, str]  # what, value, what to do ("" when all is well)
_SECONDS = 60.0
_PACKAGES = ("ray", "torch", "pyarrow")


def node_findings() -> list[Finding]:
    """Python and packages of each living node, and how they differ from those here."""
    ray = import_ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(_versions)
    asked = {
        node["NodeID"]: ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        ).remote()
        for node in ray.nodes()
        if node["Alive"]
    }
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=_SECONDS)
    here = _versions()
    return [_node(node, _answer(ray, answer), here) for node, answer in asked.items()]


def _answer(ray: Any, reference: Any) -> dict[str, str] | str:
    try:
        return ray.get(reference, timeout=1)
    except ray.exceptions.RayError as error:
        return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[-1]}"


def _node(node: str, found: dict[str, str] | str, here: dict[str, str]) -> Finding:
    if isinstance(found, str):
        return f"node {node[:8]}", "no answer", f"{found}: are kdcore's dependencies installed on this node?"
    other = [f"{name} {found[name]} (here {here[name]})" for name in here if found[name] != here[name]]
    remedy = f"install the same versions as here: {', '.join(other)}" if other else ""
    return f"node {node[:8]}", ", ".join(f"{name} {version}" for name, version in found.items()), remedy


def _versions() -> dict[str, str]:
    """Versions of this process; that it runs at all shows that our packages are importable."""
    from importlib import metadata

    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def storage_finding(store: str) -> Finding:
    """Whether a worker can write to and delete from the place of a label store."""
    ray = import_ray()
    try:
        problem = ray.get(ray.remote(num_cpus=0, max_retries=0)(_try_storage).remote(store), timeout=_SECONDS)
    except ray.exceptions.RayError as error:
        problem = f"{type(error).__name__} while a worker tried it"
    remedy = f"{problem}: set labels.path to storage that every node can write" if problem else ""
    return "storage from a worker", store, remedy


def _try_storage(store: str) -> str:
    """Put and delete a hidden file; the empty string when that worked, else why not."""
    from kdcore.config.urls import is_url
    from kdcore.errors import KDError
    from kdcore.store.places import open_place

    name = f".kd-doctor-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        place = open_place(store)
        ours = not is_url(store) and not os.path.exists(store)
        place.prepare()
        place.put(name, b"kd doctor")
        place.delete(name)
        if ours:
            os.rmdir(store)
    except (KDError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
