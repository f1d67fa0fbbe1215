"""What a store is of: the first replica says it, and all others must say the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.labelling.disk_room import OUTLOOK, check_room, store_bytes
from cluster.labelling.patience import Patience
from cluster.labelling.probe import ProbeResult
from cluster.labelling.statistics import Statistics
from kdcore.config.data import DataConfig
from kdcore.data.viewed import view_spec
from kdcore.identity import compare_identity
from kdcore.labels.views import bytes_per_view
from kdcore.planning.plan import Input
from kdcore.store import begin_or_continue, read_probe
from kdcore.store.schema import FORMAT

__all__ = ["Admission", "Ahead", "Begun", "whole_identity"]


def whole_identity(answer: Mapping[str, Any], given: Input) -> dict[str, Any]:
    """A store's identity: what a replica answers, without its outlook, and the input."""
    identity = {name: value for name, value in answer.items() if name != OUTLOOK}
    return {"format": FORMAT, **identity, "input": given.digest}


@dataclass(frozen=True)
class Begun:
    """A store that is begun: its identity, what its codec learnt, and sums over the labels that are counted so far."""

    identity: dict[str, Any]
    probe: ProbeResult
    statistics: Statistics

    @classmethod
    def of(cls, identity: dict[str, Any], probe: ProbeResult) -> "Begun":
        """Before any label is counted."""
        return cls(identity, probe, Statistics(identity["kind"], probe.codec, identity["vocabulary"]))


@dataclass(frozen=True)
class Ahead:
    """What a job has before it: bytes of the input, and the share of it that they are."""

    num_bytes: int
    share: float


class Admission:
    """Begins or continues the store at `path` when the first replica answers, and compares what others do."""

    def __init__(self, path: str, data: DataConfig, given: Input, ahead: Ahead, patience: Patience) -> None:
        self._path, self._data, self._input, self._ahead = path, data, given, ahead
        self._patience = patience
        self._begun: Begun | None = None

    @property
    def begun(self) -> Begun:
        """The store, once a replica was admitted: nothing is counted or finished before."""
        assert self._begun is not None
        return self._begun

    def admit(self, answer: Mapping[str, Any]) -> bool:
        """Whether the store is continued, so that the job which began it may still be at it.

        Raises IdentityMismatch for a store, or a replica, of something else.
        """
        wanted = whole_identity(answer, self._input)
        if self._begun is not None:
            compare_identity(self._begun.identity, wanted, what="another replica of this job")
            return False
        continued = not self._patience(lambda: begin_or_continue(self._path, wanted))
        content = self._patience(lambda: read_probe(self._path))
        assert content is not None  # a replica publishes its probe before it answers
        self._begun = Begun.of(wanted, ProbeResult.of(content))
        if OUTLOOK in answer:
            self._check_room(self._begun, answer[OUTLOOK])
        return continued

    def _check_room(self, begun: Begun, outlook: Mapping[str, Any]) -> None:
        size, rows = self._ahead.num_bytes, self._input.num_keys * self._ahead.share
        tokens, spec = size * outlook["tokens"], view_spec(self._data)
        labels = size * outlook["labels"] if tokens else rows * (1 if spec is None else spec.per_image)
        per_label = begun.probe.codec.bytes_per_label() + (0 if spec is None else bytes_per_view(spec.policy))
        needed = store_bytes(per_label, rows, labels, tokens, begun.identity["vocabulary"])
        check_room(self._path, needed, outlook["free"], self._patience.on_note)
