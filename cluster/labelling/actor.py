"""What runs inside a Ray actor that labels."""

import signal
import threading
from typing import TYPE_CHECKING, Any

from cluster.labelling.room import OUTLOOK
from cluster.workers import set_threads
from kdcore.data.plan import WorkUnit
from kdcore.errors import portable
from kdcore.store.writer import Receipt

if TYPE_CHECKING:
    from cluster.labelling.replica import Replica

__all__ = ["NOTICE_GROUP", "TeacherActor"]

NOTICE_GROUP = "notice"


class TeacherActor:
    """What runs inside a Ray actor. Errors are answered as values: Ray would wrap them in its own tracebacks.

    SIGTERM, Ray's way to end a worker at once, is a notice here: the driver hears of it and decides.
    """

    def __init__(self, recipe_json: str, store_path: str) -> None:
        self._recipe_json, self._store_path = recipe_json, store_path
        self._replica: Replica | None = None
        self._noticed = threading.Event()
        signal.signal(signal.SIGTERM, lambda number, frame: self._noticed.set())

    def place(self) -> str:
        """The id of the node that had room for this process."""
        from cluster.connect import import_ray

        return import_ray().get_runtime_context().get_node_id()

    def notice(self) -> None:
        """Return when this process was told to end."""
        self._noticed.wait()

    def load(self, cpus: float) -> Exception | None:
        """Load the teacher."""
        try:
            # Here, since the driver itself needs no model code.
            from cluster.labelling.replica import Replica

            set_threads(cpus)
            self._replica = Replica(self._recipe_json, self._store_path)
        except Exception as error:  # noqa: BLE001  judged by the policy, in the driver
            return portable(error)

    def settle(self) -> dict[str, Any] | Exception:
        """Settle the store's codec; the identity of this replica's labels, and its outlook."""
        assert self._replica is not None
        try:
            return {**self._replica.identity(), OUTLOOK: self._replica.outlook()}
        except Exception as error:  # noqa: BLE001  judged by the policy, in the driver
            return portable(error)

    def label(self, unit: WorkUnit, attempt: str, batch_divisor: int = 1) -> Receipt | Exception:
        """Label a unit and write its shard; its receipt."""
        assert self._replica is not None
        try:
            return self._replica.label(unit, attempt, batch_divisor)
        except Exception as error:  # noqa: BLE001  judged by the policy, in the driver
            return portable(error)
