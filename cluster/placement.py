"""Placement groups: resources on nodes, held for a few actors that must run together."""

from collections.abc import Sequence
from typing import Any

from cluster.connect import import_ray
from kdcore.config import ClusterConfig

__all__ = ["Bundle", "bundle", "close_group", "open_group", "replica_bundles", "total", "worker_bundles"]

Bundle = dict[str, float]


def bundle(cpus: float, gpus: float) -> Bundle:
    """The resources of one actor, without the zeros."""
    return {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}


def replica_bundles(config: ClusterConfig, ranks: int) -> list[Bundle]:
    """What the actors of one teacher replica take, one each; empty when they take nothing."""
    return [item for item in [bundle(config.cpus_per_replica, config.gpus_per_replica)] * ranks if item]


def worker_bundles(config: ClusterConfig) -> list[Bundle]:
    """One bundle a student rank."""
    return [bundle(config.cpus_per_worker, config.gpus_per_worker)] * config.workers


def open_group(bundles: Sequence[Bundle], together: bool = False) -> Any:
    """Ask for a placement group with these bundles, and return at once; its `wait` says whether it is placed.

    With `together` it is for one node if there is a node that could hold it when empty, so that the ranks of a split
    teacher talk within it in every layer: Ray's PACK alone may part them for the sake of a better filled node. A
    teacher that is too large for every node is packed on as few as possible.
    """
    import_ray()
    from ray.util import placement_group

    strict = together and _fits_a_node(bundles)
    return placement_group([dict(item) for item in bundles], strategy="STRICT_PACK" if strict else "PACK")


def close_group(group: Any) -> None:
    """Give its resources back; actors in it are killed."""
    from ray.util import remove_placement_group

    remove_placement_group(group)


def total(bundles: Sequence[Bundle]) -> Bundle:
    """The sum of what all of them take."""
    return {name: sum(item.get(name, 0.0) for item in bundles) for name in sorted(set().union(*bundles))}


def _fits_a_node(bundles: Sequence[Bundle]) -> bool:
    needed = total(bundles)
    nodes = [node["Resources"] for node in import_ray().nodes() if node["Alive"]]
    return any(all(node.get(name, 0.0) + 1e-9 >= amount for name, amount in needed.items()) for node in nodes)
