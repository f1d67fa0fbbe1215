"""The last few things that were made, by their key."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Holds `size` values at most; what was used longest ago goes first, and is made again when it is asked for."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.RLock()

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made now if it is not held."""
        with self._lock:
            if key not in self._held:
                value = make()
                self._held[key] = value
                if len(self._held) > self._size:
                    self._held.popitem(last=False)
            self._held.move_to_end(key)
            return self._held[key]

    def drop(self, key: K) -> None:
        """Make it anew the next time."""
        with self._lock:
            self._held.pop(key, None)
