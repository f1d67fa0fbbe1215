"""What the labelling policy hears and what it answers: events of replicas, and decisions."""

from dataclasses import dataclass

from kdcore.errors import KDError

__all__ = [
    "Assign",
    "Decision",
    "Drain",
    "Event",
    "Fail",
    "Finish",
    "GiveUp",
    "Grow",
    "Notice",
    "Quarantine",
    "Replace",
    "ReplicaDied",
    "ReplicaLoaded",
    "ReplicaPlaced",
    "ReplicaReady",
    "Retry",
    "Settle",
    "Shared",
    "Short",
    "Shrink",
    "Starved",
    "Tick",
    "UnitDone",
    "UnitError",
]


@dataclass(slots=True)
class ReplicaPlaced:
    """The cluster had room for a replica: its processes are there and begin to load its teacher."""

    replica: int


@dataclass(slots=True)
class ReplicaLoaded:
    """A replica has loaded its teacher, and does not know the store's codec yet; its `note` is for a person."""

    replica: int
    note: str = ""


@dataclass(slots=True)
class ReplicaReady:
    """A replica knows the store's codec, and takes units."""

    replica: int


@dataclass(slots=True)
class UnitDone:
    """A replica has written the shard of its unit; or it `found` the one that another job wrote meanwhile."""

    replica: int
    found: bool = False


@dataclass(slots=True)
class Shared:
    """Another job began the store and may be at it: this one takes its units in an order of its own, told by `seed`."""

    seed: str


@dataclass(slots=True)
class UnitError:
    """A replica is alive, but its unit (or its start) raised.

    A LabelError or DataError is the unit's: it is given up. StorageUnavailable, TeacherUnavailable and what is not a
    KDError are tried again. Any other KDError is about the whole job, and ends it, like either of a start.
    """

    replica: int
    error: Exception


@dataclass(slots=True)
class ReplicaDied:
    """A replica is gone: killed, out of memory, or its node was lost. `announced`: its node was taken away by plan."""

    replica: int
    reason: str
    announced: bool = False


@dataclass(slots=True)
class Notice:
    """A replica will be taken away in so many seconds (None: nobody said when), as its process or its node heard."""

    replica: int
    seconds: float | None
    reason: str


@dataclass(slots=True)
class Tick:
    """Nothing but time has passed."""


Event = (
    ReplicaPlaced | ReplicaLoaded | ReplicaReady | UnitDone | Shared | UnitError | ReplicaDied | Notice | Tick
)  # fmt: skip


@dataclass(slots=True)
class Assign:
    """Give `unit` to `replica`; `attempt` counts from 0. A `backup` runs beside another replica that is late."""

    replica: int
    unit: str
    attempt: int
    batch_divisor: int = 1
    backup: bool = False


@dataclass(slots=True)
class Settle:
    """Let `replica`, which has loaded, settle the store's codec: the first one makes the probe, all others read it."""

    replica: int


@dataclass(slots=True)
class Replace:
    """Start another replica in the place of `replica`, which is ended if it still runs."""

    replica: int
    reason: str = ""


@dataclass(slots=True)
class Grow:
    """Ask the cluster for one more replica, number `replica`."""

    replica: int


@dataclass(slots=True)
class Shrink:
    """End `replica` if it still runs, and give its room back."""

    replica: int
    reason: str


@dataclass(slots=True)
class Drain:
    """`replica` will be taken away: it finishes `unit`, takes no other, and leaves. For the record."""

    replica: int
    unit: str
    reason: str


@dataclass(slots=True)
class Short:
    """For a while now, the cluster has had room for fewer replicas than `wanted`. For the record."""

    replicas: int
    wanted: int


@dataclass(slots=True)
class Starved:
    """Stop: for `seconds`, the cluster has had no room for a single replica."""

    seconds: float


@dataclass(slots=True)
class Retry:
    """`unit` failed, or lost its replica, and comes back after `seconds`. For the record."""

    unit: str
    replica: int
    seconds: float
    reason: str


@dataclass(slots=True)
class Quarantine:
    """`unit` is given up in this run, the rest goes on. For the record."""

    unit: str
    replica: int
    reason: str


@dataclass(slots=True)
class GiveUp:
    """`replica` did not start in all its attempts; the others go on. For the record."""

    replica: int
    reason: str


@dataclass(slots=True)
class Fail:
    """Stop and raise `error`."""

    error: KDError


@dataclass(slots=True)
class Finish:
    """Every unit is done."""


Decision = (
    Assign | Settle | Replace | Grow | Shrink | Drain | Short | Starved | Retry | Quarantine | GiveUp | Fail | Finish
)  # fmt: skip
