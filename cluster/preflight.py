"""Ask for resources before work starts, and answer within a deadline."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cluster.connect import import_ray, started_here
from kdcore.config import ClusterConfig
from kdcore.errors import ResourceError

__all__ = ["bundle", "replica_bundles", "require", "reserve", "worker_bundles"]

Bundle = dict[str, float]


def bundle(cpus: float, gpus: float) -> Bundle:
    """The resources of one actor, without the zeros."""
    return {name: amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount}


def require(bundles: Sequence[Bundle], deadline_seconds: float, setting: str = "cluster") -> None:
    """Return when the cluster can hold all bundles at once; ResourceError after the deadline (at once if hopeless)."""
    with reserve(bundles, deadline_seconds, setting):
        pass


@contextmanager
def reserve(bundles: Sequence[Bundle], deadline_seconds: float, setting: str = "cluster") -> Iterator[Any]:
    """Hold a placement group with these bundles (None when nothing is asked for).

    Raises ResourceError with what was wanted and what is there when they are not free within `deadline_seconds`.
    """
    wanted = [dict(item) for item in bundles if item]
    if not wanted:
        yield None
        return
    import_ray()
    from ray.util import placement_group, remove_placement_group

    group = placement_group(wanted, strategy="PACK")
    try:
        if not _wait(group, wanted, time.monotonic() + deadline_seconds):
            raise _shortage(wanted, deadline_seconds, setting)
        yield group
    finally:
        remove_placement_group(group)


def _wait(group: Any, wanted: list[Bundle], deadline: float) -> bool:
    """Poll the group; give up early on a cluster of our own, which does not grow, if it could never hold it."""
    while True:
        left = deadline - time.monotonic()
        if group.wait(max(0.0, min(1.0, left))):
            return True
        if left <= 1.0 or (started_here() and not _fits(wanted)):
            return False


def _fits(wanted: list[Bundle]) -> bool:
    total = import_ray().cluster_resources()
    needed = _total(wanted)
    return all(amount <= total.get(name, 0.0) + 1e-9 for name, amount in needed.items())


def _total(bundles: list[Bundle]) -> Bundle:
    total: defaultdict[str, float] = defaultdict(float)
    for item in bundles:
        for name, amount in item.items():
            total[name] += amount
    return dict(total)


def _shortage(wanted: list[Bundle], deadline: float, setting: str) -> ResourceError:
    ray = import_ray()
    available, total = ray.available_resources(), ray.cluster_resources()
    lines = []
    for name, amount in sorted(_total(wanted).items()):
        free, there = available.get(name, 0.0), total.get(name, 0.0)
        short = "" if amount <= free + 1e-9 else "  <- short"
        lines.append(f"  {name}: wanted {amount:g}, available {free:g} of {there:g}{short}")
    shapes = Counter(", ".join(f"{name} {amount:g}" for name, amount in sorted(item.items())) for item in wanted)
    asked = "; ".join(f"{count} x {{{shape}}}" for shape, count in shapes.items())
    return ResourceError(
        f"the cluster cannot hold what {setting} asks for ({asked}; waited at most {deadline:g} s):\n"
        + "\n".join(lines)
        + f"\nLower {setting} or what each of them takes, free the resources, or join a larger cluster "
        "(cluster.address); raise cluster.resource_deadline_seconds if nodes are still coming up"
    )


def replica_bundles(config: ClusterConfig) -> list[Bundle]:
    """One bundle a teacher replica."""
    return [bundle(config.cpus_per_replica, config.gpus_per_replica)] * config.replicas


def worker_bundles(config: ClusterConfig) -> list[Bundle]:
    """One bundle a student rank."""
    return [bundle(config.cpus_per_worker, config.gpus_per_worker)] * config.workers
