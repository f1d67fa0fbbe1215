"""A teacher split over processes: rank 0 labels as if it were alone, the others answer its calls and do nothing else.

So only one process reads documents, decides and writes, and the ranks cannot come apart over what comes next.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from kdcore.config.models import TeacherLMConfig
from kdcore.teachers.causal_lm import CausalLMTeacher, check_group

__all__ = ["FollowingTeacher", "LeadingTeacher"]

_REST, _IDENTITY, _LOGITS, _BEGIN, _KEEP, _DECODE = range(6)
# Between two calls rank 0 reads, encodes, learns a codec or writes; when it dies, the connection ends the wait.
_HEARER_SECONDS = 6 * 3600.0


class LeadingTeacher(CausalLMTeacher):
    """Rank 0 of a split teacher: each of its calls is made by all ranks, who take it up within `timeout` seconds.

    `torn`: a call failed on the way, so that the others may be anywhere in it; the group is of no use any more.
    """

    def __init__(self, config: TeacherLMConfig, timeout: float, device: str | None = None) -> None:
        self.torn = True
        self._channel = _Channel(config.tensor_parallel, timeout)
        super().__init__(config, device)
        self.torn = False

    def identity(self) -> dict[str, Any]:
        """That of the unsplit teacher."""
        with self._together(_IDENTITY):
            return super().identity()

    def window_logits(self, windows: Sequence[np.ndarray]) -> list[Tensor]:
        """As those of an unsplit teacher."""
        with self._together(_LOGITS, windows):
            return super().window_logits(windows)

    def begin_slots(self, slots: int, length: int) -> None:
        """As of an unsplit teacher."""
        self.check_slots(length)  # what can be refused alone does not tear the group
        with self._together(_BEGIN, [np.array([slots, length])]):
            super().begin_slots(slots, length)

    def keep_slots(self, slots: np.ndarray) -> None:
        """As of an unsplit teacher."""
        with self._together(_KEEP, [slots]):
            super().keep_slots(slots)

    def decode(self, tokens: np.ndarray, positions: np.ndarray) -> Tensor:
        """As of an unsplit teacher."""
        with self._together(_DECODE, [tokens, positions]):
            return super().decode(tokens, positions)

    def rest(self) -> None:
        """Let the others go until the next call, whatever became of this one."""
        if not self.torn:
            with self._together(_REST):
                pass

    @contextmanager
    def _together(self, call: int, windows: Sequence[np.ndarray] = ()) -> Iterator[None]:
        self.torn = True
        self._channel.tell(call, windows)
        yield
        self.torn = False


class FollowingTeacher:
    """A rank above 0 of a split teacher."""

    def __init__(self, config: TeacherLMConfig, device: str | None = None) -> None:
        self._channel = _Channel(config.tensor_parallel, _HEARER_SECONDS)
        self._teacher = CausalLMTeacher(config, device)

    def follow(self) -> None:
        """Make the calls of rank 0 until it rests. RuntimeError when it is gone or a call fails."""
        while True:
            call, arrays = self._channel.hear()
            if call == _REST:
                return
            self._make(call, arrays)

    def _make(self, call: int, arrays: Sequence[np.ndarray]) -> None:
        if call == _IDENTITY:
            self._teacher.identity()
        elif call == _LOGITS:
            self._teacher.window_logits(arrays)
        elif call == _BEGIN:
            self._teacher.begin_slots(*arrays[0].tolist())
        elif call == _KEEP:
            self._teacher.keep_slots(arrays[0])
        else:
            self._teacher.decode(arrays[0], arrays[1])


class _Channel:
    """What rank 0 tells the others, over gloo: it may be long silent, which the model's own group must not be.

    `timeout` is this rank's own: gloo keeps it in the process, and its sender waits until the receiver is there.
    """

    def __init__(self, ranks: int, timeout: float) -> None:
        check_group(ranks)
        self._group: Any = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def tell(self, call: int, windows: Sequence[np.ndarray] = ()) -> None:
        lengths = [len(window) for window in windows]
        self._send(torch.tensor([call, len(lengths), sum(lengths)]))
        if lengths:
            self._send(torch.from_numpy(np.concatenate([lengths, *windows]).astype(np.int64)))

    def hear(self) -> tuple[int, list[np.ndarray]]:
        call, count, size = self._send(torch.zeros(3, dtype=torch.int64)).tolist()
        if not count:
            return call, []
        told = self._send(torch.zeros(count + size, dtype=torch.int64)).numpy()
        return call, np.split(told[count:], np.cumsum(told[:count])[:-1])

    def _send(self, values: Tensor) -> Tensor:
        dist.broadcast(values, src=0, group=self._group)
        return values
