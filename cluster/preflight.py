"""Ask for resources before work starts, and answer within a deadline."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from cluster.connect import import_ray, started_here
from cluster.placement import Bundle, close_group, open_group, total
from kdcore.errors import ResourceError

__all__ = ["require", "reserve", "shortage"]


def require(bundles: Sequence[Bundle], deadline_seconds: float, setting: str = "cluster") -> None:
    """Return when the cluster can hold all bundles at once; ResourceError after the deadline (at once if hopeless)."""
    wanted = [item for item in bundles if item]
    for group in reserve([wanted] if wanted else [], deadline_seconds, setting):
        close_group(group)


def reserve(
    groups: Sequence[Sequence[Bundle]], deadline_seconds: float, setting: str = "cluster", together: bool = False
) -> list[Any]:
    """Placement groups for each of `groups`, all placed, each on one node if `together` and possible; close them.

    Raises ResourceError with what was wanted and what is there when they are not free within `deadline_seconds`.
    """
    held = [open_group(bundles, together) for bundles in groups]
    try:
        placed = _wait(held, groups, time.monotonic() + deadline_seconds)
        if len(placed) < len(held):
            raise shortage(groups, deadline_seconds, setting, "cluster.resource_deadline_seconds", placed)
    except BaseException:
        for group in held:
            close_group(group)
        raise
    return held


def _wait(held: Sequence[Any], groups: Sequence[Sequence[Bundle]], deadline: float) -> list[int]:
    """Which groups are placed; gives up early on a cluster of our own, which does not grow, if it cannot hold all."""
    while True:
        left = deadline - time.monotonic()
        placed = [number for number, group in enumerate(held) if group.wait(0)]
        if len(placed) == len(held) or left <= 1.0 or (started_here() and not _fits(groups)):
            return placed
        missing = next(number for number in range(len(held)) if number not in placed)
        held[missing].wait(min(1.0, left))


def _fits(groups: Sequence[Sequence[Bundle]]) -> bool:
    there = import_ray().cluster_resources()
    return all(amount <= there.get(name, 0.0) + 1e-9 for name, amount in total(_flat(groups)).items())


def _flat(groups: Sequence[Sequence[Bundle]]) -> list[Bundle]:
    return [item for bundles in groups for item in bundles]


def shortage(
    groups: Sequence[Sequence[Bundle]], waited: float, setting: str, patience: str, placed: Sequence[int] = ()
) -> ResourceError:
    """What `setting` asks for against what is there, after `waited` seconds that the setting `patience` allows.

    `placed` are the numbers of the groups that had room.
    """
    ray = import_ray()
    available, there = ray.available_resources(), ray.cluster_resources()
    held = total(_flat([groups[number] for number in placed]))  # of our own, hence free as far as the user is concerned
    wanted = _flat(groups)
    lines = []
    for name, amount in total(wanted).items():
        free = min(there.get(name, 0.0), available.get(name, 0.0) + held.get(name, 0.0))
        short = "" if amount <= free + 1e-9 else "  <- short"
        lines.append(f"  {name}: wanted {amount:g}, available {free:g} of {there.get(name, 0.0):g}{short}")
    shapes = Counter(", ".join(f"{name} {amount:g}" for name, amount in sorted(item.items())) for item in wanted)
    asked = "; ".join(f"{count} x {{{shape}}}" for shape, count in shapes.items())
    return ResourceError(
        f"the cluster cannot hold what {setting} asks for ({asked}; waited {waited:g} s):\n"
        + "\n".join(lines)
        + f"\nLower {setting} or what each of them takes, free the resources, or join a larger cluster "
        f"(cluster.address); raise {patience} if nodes are still coming up"
    )
