"""What every node of a cluster has: asked by a small task pinned to each."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.connect import import_ray
from kdcore.config.models import TeacherEndpointConfig
from kdcore.facts import package_versions

__all__ = ["Finding", "draining_nodes", "endpoint_finding", "node_findings", "storage_finding", "teacher_findings"]

Finding = tuple[str, str, str]  # what, value, what to do ("" when all is well)
_SECONDS = 60.0
_TEACHER_ROOM = 1.2  # of its weights' bytes: activations and the runtime come on top
_PACKAGES = ("ray", "torch", "pyarrow")


def draining_nodes() -> dict[str, float]:
    """Ids of the nodes that will be taken away, and when: in seconds since 1970, 0 where nobody said.

    Ray's public lists do not tell it (`ray.nodes`) or need the dashboard (`ray.util.state`); Ray's own Train and Data
    read the same table.
    """
    import_ray()
    from ray._private.state import state

    return {node: milliseconds / 1000 for node, milliseconds in state.get_draining_nodes().items()}


def node_findings() -> list[Finding]:
    """Python and packages of each living node, and how they differ from those here."""
    here = _versions()
    return [_node(node, found, here) for node, found in _ask_nodes(_versions).items()]


def teacher_findings(path: str, ranks: int = 1) -> list[Finding]:
    """Whether the teacher in a directory, split over `ranks` GPUs, fits the smallest one of each node that has any."""
    asked = _ask_nodes(_memory, path, resource="GPU")
    return [_gpu_finding(node, found, ranks) for node, found in asked.items()]


def _ask_nodes(function: Callable[..., Any], *arguments: Any, resource: str | None = None) -> dict[str, Any]:
    """What a function returns on every living node (with some of a resource); a string where one does not answer."""
    ray = import_ray()
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ask = ray.remote(num_cpus=0, max_retries=0)(function)
    alive = [node for node in ray.nodes() if node["Alive"]]
    nodes = [node["NodeID"] for node in alive if resource is None or node["Resources"].get(resource, 0) > 0]
    pins = {node: NodeAffinitySchedulingStrategy(node_id=node, soft=False) for node in nodes}
    asked = {node: ask.options(scheduling_strategy=pin).remote(*arguments) for node, pin in pins.items()}
    if asked:
        ray.wait(list(asked.values()), num_returns=len(asked), timeout=_SECONDS)
    return {node: _answer(ray, answer) for node, answer in asked.items()}


def _answer(ray: Any, reference: Any) -> Any:
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
    absent = dict.fromkeys(_PACKAGES, "missing")
    return {"python": platform.python_version(), **absent, **package_versions(_PACKAGES)}


def _memory(path: str) -> tuple[int, list[int]]:
    """Bytes of the weights as this node sees them, and of each of its GPUs."""
    weights = sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return weights, []
    command = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    return weights, [int(line) * 2**20 for line in told.split() if line.isdigit()]


def _gpu_finding(node: str, found: tuple[int, list[int]] | str, ranks: int) -> Finding:
    name = f"teacher on {node[:8]}"
    if isinstance(found, str):
        return name, "no answer", found
    weights, gpus = found
    if not weights or not gpus:
        return name, f"{weights / 1e9:.1f} GB of weights seen, {len(gpus)} GPUs measured: not compared", ""
    needed, smallest = weights * _TEACHER_ROOM / ranks, min(gpus)
    value = f"needs {needed / 1e9:.1f} GB{' each' if ranks > 1 else ''}, smallest GPU {smallest / 1e9:.1f} GB"
    remedy = "take a smaller teacher or dtype, larger GPUs, or split it over more (teacher.tensor_parallel)"
    return name, value, remedy if needed > smallest else ""


def endpoint_finding(config: TeacherEndpointConfig) -> Finding:
    """Whether a worker gets whole answers from a teacher's endpoint."""
    ray = import_ray()
    try:
        problem = ray.get(ray.remote(num_cpus=0, max_retries=0)(_try_endpoint).remote(config), timeout=_SECONDS)
    except ray.exceptions.RayError as error:
        problem = f"{type(error).__name__} while a worker asked it"
    return "endpoint from a worker", f"{config.model} at {config.url}", problem


def _try_endpoint(config: TeacherEndpointConfig) -> str:
    """Ask for a few tokens, once; the empty string when that worked, else why not."""
    import numpy as np

    from kdcore.errors import KDError
    from kdcore.teachers.endpoint import EndpointTeacher

    try:
        EndpointTeacher(config.model_copy(update={"attempts": 1})).entries(np.arange(4))
    except KDError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def storage_finding(store: str) -> Finding:
    """Whether a worker can write to and delete from the place of a label store, and how much is free there."""
    ray = import_ray()
    try:
        asked = ray.remote(num_cpus=0, max_retries=0)(_try_storage).remote(store)
        problem, free = ray.get(asked, timeout=_SECONDS)
    except ray.exceptions.RayError as error:
        problem, free = f"{type(error).__name__} while a worker tried it", None
    remedy = f"{problem}: set labels.path to storage that every node can write" if problem else ""
    return "storage from a worker", store if free is None else f"{store}, {free / 1e9:.1f} GB free", remedy


def _try_storage(store: str) -> tuple[str, int | None]:
    """Put and delete a hidden file: an empty text when that worked, else why not; and the free bytes."""
    from cluster.labelling.disk_room import free_bytes
    from kdcore.config.urls import is_url
    from kdcore.errors import KDError
    from kdcore.store.storage.places import open_place

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
        return f"{type(error).__name__}: {error}", None
    return "", free_bytes(store)
