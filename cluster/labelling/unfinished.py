"""What of a job's units is still to do: those without a receipt in the journal."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from kdcore.store import Location
from kdcore.store.journal import read_receipts

__all__ = ["unfinished"]


class _Unit(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def digest(self) -> str: ...


_U = TypeVar("_U", bound=_Unit)


def unfinished(
    store: Location, units: Sequence[_U], what: str, on_note: Callable[[str], None], remedy: str | None = None
) -> list[_U]:
    """The units without a valid receipt, in their order; notes, beginning with `what`, say how many there are.

    StoreError where a receipt is of a unit that was cut differently; `remedy` is what to do then.
    """
    journal = read_receipts(store, {unit.id: unit.digest for unit in units}, remedy)
    for note in journal.notes:
        on_note(f"{what}: {note}; its unit is done again")
    todo = [unit for unit in units if unit.id not in journal]
    if journal:
        on_note(f"{what}: {len(journal)} of {len(units)} units were there, {len(todo)} to go")
    return todo
