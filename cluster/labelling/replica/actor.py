"""What runs inside the Ray actors of a replica: one that labels and, of a split teacher, those that follow it.

An error that is answered as a value leaves the actor fit for the next unit; one that is raised ends the replica.
"""

import signal
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, TypeVar

from cluster.connect import import_ray
from cluster.labelling.disk_room import OUTLOOK
from cluster.workers import set_threads
from kdcore.config import Recipe
from kdcore.config.models import TeacherLMConfig
from kdcore.errors import portable
from kdcore.planning.plan import Unit
from kdcore.store.writer import Receipt

__all__ = ["LABELLING", "NOTICE_GROUP", "FollowerActor", "TeacherActor"]

NOTICE_GROUP = "notice"
LABELLING = "cluster.labelling.replica.replica:Replica"
"""The replica that labels samples which are there."""

Meeting = tuple[str, int]
_Answer = TypeVar("_Answer")


class _Process:
    """SIGTERM, Ray's way to end a worker at once, is a notice here: the driver hears of it and decides."""

    def __init__(self) -> None:
        self._noticed = threading.Event()
        signal.signal(signal.SIGTERM, lambda number, frame: self._noticed.set())

    def place(self) -> str:
        """The id of the node that had room for this process."""
        return import_ray().get_runtime_context().get_node_id()

    def notice(self) -> None:
        """Return when this process was told to end."""
        self._noticed.wait()


class TeacherActor(_Process):
    """Labels. Errors are answered as values: Ray would wrap them in its own tracebacks."""

    def __init__(self, recipe_json: str, store_path: str, kind: str = LABELLING) -> None:
        """`kind` names the class of the replica, as MODULE:CLASS."""
        super().__init__()
        self._recipe_json, self._store_path, self._kind = recipe_json, store_path, kind
        self._meeting: Any = None
        self._replica: Any = None  # of the class that `kind` names

    def meet(self) -> Meeting:
        """Where the followers find this process, on its node's address."""
        from cluster.labelling.replica.group import open_meeting

        recipe = Recipe.model_validate_json(self._recipe_json)
        address = import_ray().util.get_node_ip_address()
        self._meeting = open_meeting(address, recipe.ranks, recipe.cluster.rank_timeout_seconds)
        return address, self._meeting.port

    def load(self, cpus: float) -> Exception | str:
        """Load the teacher; what a person should know of it. Raises when the followers do not come."""
        if self._meeting is not None:
            _join(Recipe.model_validate_json(self._recipe_json), 0, self._meeting)
        try:
            set_threads(cpus)
            # Here, since the driver itself needs no model code.
            module, name = self._kind.split(":")
            self._replica = getattr(import_module(module), name)(self._recipe_json, self._store_path)
            return self._replica.note
        except Exception as error:  # noqa: BLE001  judged by the policy, in the driver
            return portable(error)

    def settle(self) -> dict[str, Any] | Exception:
        """Settle the store's codec; the identity of this replica's labels, and its outlook. Raises as `label` does."""
        replica = self._replica
        assert replica is not None
        return _shared_call(replica, lambda: {**replica.identity(), OUTLOOK: replica.outlook()})

    def label(self, unit: Unit, attempt: str, batch_divisor: int = 1) -> Receipt | Exception:
        """Label a unit and write its shard; its receipt. Raises when the followers are not fit for another one."""
        replica = self._replica
        assert replica is not None
        return _shared_call(replica, lambda: replica.label(unit, attempt, batch_divisor))


class FollowerActor(_Process):
    """A rank above 0 of a split teacher: holds its share of the weights and makes the calls of rank 0."""

    def __init__(self, recipe_json: str, rank: int) -> None:
        super().__init__()
        self._recipe, self._rank = Recipe.model_validate_json(recipe_json), rank
        self._teacher: Any = None

    def load(self, cpus: float, meeting: Meeting) -> Exception | None:
        """Join the group of `meeting` and load a share of the teacher. Raises when the others do not come."""
        _join(self._recipe, self._rank, meeting)
        try:
            from kdcore.teachers.split import FollowingTeacher

            set_threads(cpus)
            assert isinstance(self._recipe.teacher, TeacherLMConfig)
            self._teacher = FollowingTeacher(self._recipe.teacher)
        except Exception as error:  # noqa: BLE001  judged by the policy, in the driver
            return portable(error)

    def follow(self) -> None:
        """Take part in one call; raises when it fails."""
        self._teacher.follow()


def _join(recipe: Recipe, rank: int, meeting: Any) -> None:
    from cluster.labelling.replica.group import join_group

    join_group(rank, recipe.ranks, meeting, recipe.cluster.rank_timeout_seconds)


def _shared_call(replica: Any, call: Callable[[], _Answer]) -> _Answer | Exception:
    try:
        answer = call()
    except Exception as error:  # noqa: BLE001  judged by the policy, in the driver
        if replica.torn:
            raise portable(error) from None
        replica.rest()
        return portable(error)
    replica.rest()
    return answer
