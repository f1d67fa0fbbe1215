"""What a comparison of stored labels with those of the live teacher found, and what makes them again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kdcore.store import ShardRow

__all__ = ["Again", "TeacherReport"]

_LISTED = 20


@dataclass
class TeacherReport:
    """What was compared; `problems` is empty when every label is the teacher's.

    `largest` is the largest distance that was found, over what codec and numerics explain of it: at most 1 if all is
    right.
    """

    rows: int = 0
    labels: int = 0
    largest: float = 0.0
    problems: list[str] = field(default_factory=list)
    unlisted: int = 0

    def add(self, problem: str) -> None:
        """Lists the first ones, and counts the others."""
        if len(self.problems) < _LISTED:
            self.problems.append(problem)
        else:
            self.unlisted += 1


class Again(Protocol):
    """Makes rows of a store again."""

    @property
    def left_open(self) -> tuple[str, ...]:
        """Parts of the store's identity that decide which samples there are, and no label of them."""
        ...

    def asked(self) -> Mapping[str, Any]:
        """What the identity of a store of these labels says, but for codec and input."""
        ...

    def there(self, rows: Sequence[int], report: TeacherReport) -> list[int]:
        """Those of `rows` that can be made again, in their order; the others are a problem of the report."""
        ...

    def made(self, rows: Sequence[int]) -> Iterator[ShardRow]:
        """Rows that are there, as the teacher makes them now."""
        ...
