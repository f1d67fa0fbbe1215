"""What the labelling policy remembers of the replicas that do not take units yet, or no more; each step O(log n)."""

import heapq
import math

__all__ = ["Fleet", "Shortage"]

_SHORT_SECONDS = 60.0


class Shortage:
    """Since when there have been fewer replicas than wanted, and since when none at all."""

    def __init__(self, starved_seconds: float) -> None:
        self._starved_seconds = starved_seconds
        self._short_since: float | None = None
        self._empty_since: float | None = None
        self._told = False

    def see(self, placed: int, wanted: int, now: float) -> bool:
        """Note that so many replicas have found room; whether that is too few."""
        if placed >= wanted:
            self._short_since, self._told = None, False
        elif self._short_since is None:
            self._short_since = now
        if placed:
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = now
        return self._short_since is not None or self._empty_since is not None

    def starved(self, now: float) -> float | None:
        """For how many seconds there has been none, if that is too long."""
        if self._empty_since is None or now < self._empty_since + self._starved_seconds:
            return None
        return now - self._empty_since

    def take_short(self, now: float) -> bool:
        """Whether there have been too few for so long that it should be said; once each time."""
        due = self._short_since is not None and now >= self._short_since + _SHORT_SECONDS and not self._told
        self._told = self._told or due
        return due

    def wake_at(self) -> float:
        """When one of the two answers changes, if nothing else does; infinite if they do not."""
        starved = math.inf if self._empty_since is None else self._empty_since + self._starved_seconds
        if self._short_since is None or self._told:
            return starved
        return min(starved, self._short_since + _SHORT_SECONDS)


class Fleet:
    """Replicas by number, up to the first that takes units (those are the state's `idle` and `running`).

    `asked`: no room yet; `loading`: loads its teacher, or settles the codec; `loaded`: waits for the codec;
    `restarting`: waits for its next start; `leaving`: at its last unit; `given_up`: keeps its number, and its room.
    """

    def __init__(self, lowest: int, highest: int) -> None:
        self.lowest, self.highest = lowest, highest
        self.asked: dict[int, None] = dict.fromkeys(range(lowest))
        self.loading: dict[int, None] = {}
        self.loaded: dict[int, None] = {}
        self.restarting: set[int] = set()
        self.leaving: set[int] = set()
        self.given_up: set[int] = set()
        self.failed_starts: dict[int, int] = {}
        self.prober: int | None = None
        self.settled = False
        self._numbers = lowest
        self._unused: list[int] = []
        self._until: dict[int, float] = {}
        self._timers: list[tuple[float, int]] = []

    @property
    def used(self) -> int:
        """How many numbers are taken."""
        return self._numbers - len(self._unused)

    @property
    def coming(self) -> int:
        """How many replicas may take units later."""
        return len(self.asked) + len(self.loading) + len(self.loaded) + len(self.restarting)

    def knows(self, replica: int) -> bool:
        """Whether it is on its way."""
        return any(replica in phase for phase in (self.asked, self.loading, self.loaded))

    def is_out(self, replica: int) -> bool:
        """Whether its last start failed: nothing that it still says counts."""
        return replica in self.restarting or replica in self.given_up

    def add(self) -> int:
        """Ask for one more; its number."""
        if self._unused:
            replica = heapq.heappop(self._unused)
        else:
            replica = self._numbers
            self._numbers += 1
        self.asked[replica] = None
        return replica

    def forget(self, replica: int) -> None:
        """Whatever the replica was before, it is no more; its number stays taken."""
        for phase in (self.asked, self.loading, self.loaded):
            phase.pop(replica, None)
        self.restarting.discard(replica)
        self.leaving.discard(replica)
        self._until.pop(replica, None)
        if self.prober == replica:
            self.prober = None

    def release(self, replica: int) -> None:
        """Forget it, and let another have its number."""
        self.forget(replica)
        self.failed_starts.pop(replica, None)
        heapq.heappush(self._unused, replica)

    def limit(self, replica: int, when: float) -> None:
        """Let `take_expired` name the replica at `when`, unless it is forgotten, or limited anew."""
        self._until[replica] = when
        heapq.heappush(self._timers, (when, replica))

    def limit_of(self, replica: int) -> float | None:
        """When `take_expired` would name it."""
        return self._until.get(replica)

    def take_expired(self, now: float) -> int | None:
        """A replica whose limit has passed."""
        self._drop_stale()
        if self._timers and self._timers[0][0] <= now:
            replica = heapq.heappop(self._timers)[1]
            del self._until[replica]
            return replica
        return None

    def next_limit(self) -> float:
        """When the next limit passes; infinite if there is none."""
        self._drop_stale()
        return self._timers[0][0] if self._timers else math.inf

    def _drop_stale(self) -> None:
        while self._timers and self._until.get(self._timers[0][1]) != self._timers[0][0]:
            heapq.heappop(self._timers)
