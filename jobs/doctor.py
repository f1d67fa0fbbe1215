"""`kd doctor`: what this machine has, what is missing and how to get it."""

import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.common import command, run_alone

if TYPE_CHECKING:
    from cluster.nodes import Finding
    from kdcore.config.recipe import Recipe

__all__ = ["doctor"]

_EXTRAS = {
    "cluster": ("ray",),
    "deepspeed": ("deepspeed",),
    "lora": ("peft",),
    "text": ("transformers", "tokenizers", "datasets"),
    "vision": ("timm", "torchvision", "PIL", "sklearn"),
    "report": ("matplotlib", "tensorboard", "torchmetrics"),
}
_DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}
_CORE = ("torch", "numpy", "pyarrow", "pydantic", "safetensors")
_LOW_DISK, _LOW_SHM = 5e9, 1e9


@command
def doctor(
    address: Annotated[str, typer.Option(help="Ray cluster to ask: `local` starts one here.")] = "local",
    recipe: Annotated[
        str | None, typer.Option(help="A recipe whose label storage is written to from a worker.", metavar="RECIPE")
    ] = None,
) -> None:
    """Check versions, devices, compiler, disk, optional packages and Ray's resources."""
    from rich.console import Console
    from rich.table import Table

    table = Table("", "found", "what to do", box=None, pad_edge=False)
    problems = 0
    for what, value, remedy in _findings(address, recipe):
        problems += bool(remedy)
        table.add_row(what, value, f"[yellow]{remedy.replace('[', chr(92) + '[')}[/]" if remedy else "[green]ok[/]")
    console = Console()
    console.print(table)
    console.print(f"{problems} thing(s) to look at" if problems else "all is well")


def _findings(address: str, recipe: str | None) -> "Iterator[Finding]":
    from kdcore.config.load import load_recipe

    checked = load_recipe(recipe) if recipe is not None else None
    yield "python", platform.python_version(), ""
    from cluster.security import old_versions

    old = old_versions()
    for package in _CORE:
        yield package, metadata.version(package), old.pop(package, "")
    for package, remedy in old.items():
        yield package, metadata.version(package), remedy
    for extra, modules in _EXTRAS.items():
        yield _extra(extra, modules)
    yield from _devices()
    yield _bfloat16(checked)
    yield _compiler()
    yield from _disks()
    yield from _ray(address, checked)


def _extra(extra: str, modules: tuple[str, ...]) -> "Finding":
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    names = [_DISTRIBUTIONS.get(module, module) for module in modules if module not in missing]
    found = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    remedy = f"{', '.join(missing)} missing: pip install 'kdcore[{extra}]'" if missing else ""
    return f"extra {extra}", found or "nothing", remedy


def _devices() -> "Iterator[Finding]":
    import torch

    yield "cpu", f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads", ""
    if not torch.cuda.is_available():
        reason = "torch was built without CUDA" if torch.version.cuda is None else "no driver or no device"
        yield "gpu", f"none ({reason}); everything runs on the CPU", ""
        return
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield f"gpu {index}", f"{device.name}, {device.total_memory / 1e9:.0f} GB", ""


def _bfloat16(recipe: "Recipe | None") -> "Finding":
    """A machine without it is fine, but not for a recipe that asks for it."""
    from kdcore.precision import PRECISIONS, bfloat16_note, computes_bfloat16, describe_device
    from kdcore.teachers.base import pick_device

    device = pick_device(None)
    if computes_bfloat16(device):
        return "bfloat16", f"computed natively on {device.type}", ""
    remedy = "" if recipe is None else bfloat16_note(recipe, PRECISIONS, device)
    return "bfloat16", f"slow: {describe_device(device)} has no instructions for it; keep to float32", remedy


def _compiler() -> "Finding":
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if found:
        return "C++ compiler", found, ""
    return "C++ compiler", "none", "only for DeepSpeed's own kernels, which no recipe needs: apt install g++"


def _disks() -> "Iterator[Finding]":
    for name, path, low, remedy in (
        ("disk here", os.getcwd(), _LOW_DISK, "set `runs` and `labels.path` to a larger disk"),
        ("disk for temporary files", tempfile.gettempdir(), _LOW_DISK, "point TMPDIR and RAY_TMPDIR elsewhere"),
        ("shared memory", "/dev/shm", _LOW_SHM, "docker run --shm-size=2g; Ray's objects live there"),
    ):
        if os.path.isdir(path):
            free = shutil.disk_usage(path).free
            yield name, f"{free / 1e9:.1f} GB free", remedy if free < low else ""


def _ray(address: str, recipe: "Recipe | None") -> "Iterator[Finding]":
    if importlib.util.find_spec("ray") is None:
        yield "ray", "not installed", "pip install 'kdcore[cluster]'"
        return
    from cluster.connect import cluster_session, import_ray
    from cluster.nodes import endpoint_finding, node_findings, storage_finding, teacher_findings
    from kdcore.config import ClusterConfig
    from kdcore.config.models import TeacherEndpointConfig
    from kdcore.errors import KDError

    try:
        with cluster_session(ClusterConfig.model_validate({"address": address})):
            resources = import_ray().cluster_resources()
            memory = f"{resources.get('memory', 0) / 1e9:.1f} GB"
            yield "ray", f"{address}: {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs, {memory}", ""
            yield from node_findings()
            if recipe is not None:
                yield storage_finding(recipe.store_path)
                if isinstance(recipe.teacher, TeacherEndpointConfig):
                    yield endpoint_finding(recipe.teacher)
                elif recipe.teacher is not None and recipe.teacher.path and recipe.cluster.gpus_per_replica:
                    yield from teacher_findings(recipe.teacher.path, recipe.ranks)
    except KDError as error:
        yield "ray", f"{address}: no answer", str(error)


if __name__ == "__main__":
    run_alone(doctor)
