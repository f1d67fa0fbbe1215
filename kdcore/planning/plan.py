"""The words of a plan: what there is to label, each distinct sample once, cut into units of about equal size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kdcore.data.document import SampleRef

PlannedSample = tuple[SampleRef, bytes, int]
"""A reference, the sample's 16-byte key, and how often the sample occurs in the data."""


@dataclass(frozen=True, slots=True)
class PlanFile:
    """One Arrow file of a plan, by its name in the plan's place."""

    name: str
    num_bytes: int
    digest: str


@dataclass(frozen=True, slots=True)
class PlanRows:
    """Rows start..stop-1 of a plan's file."""

    file: PlanFile
    start: int
    stop: int


class Unit(Protocol):
    """What is handed to a replica in one go, to whom it means more; `num_bytes` is its share of the work."""

    @property
    def id(self) -> str:
        """Its name, of its shard too."""
        ...

    @property
    def num_bytes(self) -> int:
        """Of input; or whatever measures the units of one job."""
        ...

    @property
    def digest(self) -> str:
        """Of what is asked for."""
        ...


@dataclass(frozen=True, slots=True)
class WorkUnit:
    """The samples of one shard, listed in `rows`. `digest` names their content, not their files."""

    id: str
    rows: PlanRows
    num_bytes: int
    digest: str


@dataclass(frozen=True)
class Input:
    """What a split holds: `num_samples` counts repeated samples each time, `num_keys` once.

    `skipped` are the first (name, reason) of the `num_skipped` samples that are left out; `probe` the samples that a
    probe takes, in its order: the least `probe_rank`s of the split, samples left out and repeated ones among them.
    `num_conflicts` of the keys are of samples of several classes, of which the first one's counts.
    """

    digest: str
    num_samples: int
    num_keys: int
    skipped: tuple[tuple[str, str], ...]
    num_skipped: int
    probe: tuple[SampleRef, ...]
    num_conflicts: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it."""
        found: list[str] = []
        if self.num_skipped:
            name, reason = self.skipped[0]
            found.append(f"skipped {self.num_skipped:,} samples, first: {name}: {reason}")
        if self.num_conflicts:
            found.append(
                f"{self.num_conflicts:,} of {self.num_keys:,} distinct samples occur with several classes and have the "
                "class of their first occurrence (data.on_conflict: first)"
            )
        return tuple(found)


@dataclass(frozen=True)
class Plan:
    """All units of a split, in the order of the corpus."""

    input: Input
    units: tuple[WorkUnit, ...]
