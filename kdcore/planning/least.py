"""The few least of many, in memory for the few."""

from typing import Generic, TypeVar

Item = TypeVar("Item")


class Least(Generic[Item]):
    """The `most` items of least rank that were added; of equal ranks those that came first."""

    def __init__(self, most: int) -> None:
        self._most, self._items = most, list[tuple[bytes, Item]]()
        self.bound: bytes | None = None
        """The greatest rank that still counts, None as long as every rank does."""
        self.dropped = False

    def add(self, rank: bytes, item: Item) -> None:
        """Keep an item, or let it go."""
        if self.bound is not None and rank >= self.bound:
            self.dropped = True
            return
        self._items.append((rank, item))
        if len(self._items) >= 2 * self._most:
            self._trim()

    def items(self) -> list[tuple[bytes, Item]]:
        """(rank, item) by rank."""
        self._trim()
        return self._items

    def _trim(self) -> None:
        self._items.sort(key=lambda item: item[0])
        if len(self._items) > self._most:
            self.dropped = True
            del self._items[self._most :]
        if len(self._items) == self._most:
            self.bound = self._items[-1][0]
