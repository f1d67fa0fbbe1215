"""The loop's micro-batches: in the order of the plan, made and copied to the device ahead of time."""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcore.training.ahead import ahead
from kdcore.training.batches import Batch, Samples
from kdcore.training.packing import Layout

__all__ = ["Feed", "MicroBatch", "feeding"]

# How many micro-batches before its own turn a shard that lies elsewhere is copied to this machine.
_BROUGHT_AHEAD = 4


@dataclass(frozen=True)
class MicroBatch:
    """The samples `indices` as a batch on the device; `last` of its step."""

    indices: np.ndarray
    last: bool
    batch: Batch


@dataclass(frozen=True)
class _Sent:
    """A micro-batch on its way to a GPU, and what tells that it has arrived; None where it is there."""

    micro: MicroBatch
    arrived: torch.Event | None


class Feed:
    """Gives micro-batches to the loop; `waited` are the seconds that it waited for them, so far."""

    def __init__(self, sent: Iterator[_Sent], device: torch.device) -> None:
        self._sent, self._device = sent, device
        self.waited = 0.0

    def step(self) -> Iterator[MicroBatch]:
        """The micro-batches of the next step, one after the other."""
        last = False
        while not last:
            begun = time.perf_counter()
            sent = next(self._sent)
            self.waited += time.perf_counter() - begun
            last = sent.micro.last
            yield _received(sent, self._device)


@contextmanager
def feeding(
    samples: Samples, steps: Iterable[list[np.ndarray]], layout: Layout, device: torch.device, depth: int
) -> Iterator[Feed]:
    """A feed of `steps`, each the samples of its micro-batches, with `depth` micro-batches made ahead (0: none).

    What making them raises is raised by the feed, as it is. When the block ends, no thread of it is left.
    """
    with ahead(_make(samples, steps, layout, device, depth > 0), depth) as sent:
        yield Feed(sent, device)


def _make(
    samples: Samples, steps: Iterable[list[np.ndarray]], layout: Layout, device: torch.device, early: bool
) -> Generator[_Sent, None, None]:
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    brings = early and samples.elsewhere
    with ahead(_bring(samples, steps, brings), _BROUGHT_AHEAD if brings else 0) as brought:
        for indices, last in brought:
            yield _send(MicroBatch(indices, last, samples.batch(indices, layout)), device, stream)


def _bring(
    samples: Samples, steps: Iterable[list[np.ndarray]], brings: bool
) -> Generator[tuple[np.ndarray, bool], None, None]:
    for parts in steps:
        for number, indices in enumerate(parts):
            if brings:
                samples.bring(indices)
            yield indices, number == len(parts) - 1


def _send(micro: MicroBatch, device: torch.device, stream: torch.cuda.Stream | None) -> _Sent:
    """Begins the copy to a GPU on a stream of its own, so that it runs beside the work of the engine."""
    if stream is None:
        return _Sent(_with(micro, micro.batch.to(device)), None)
    # Pinning asks for the current device, which is the first one in every new thread.
    with torch.cuda.device(device), torch.cuda.stream(stream):
        batch = micro.batch.pin_memory().to(device, non_blocking=True)
        return _Sent(_with(micro, batch), stream.record_event())


def _received(sent: _Sent, device: torch.device) -> MicroBatch:
    """The engine's stream waits for the copy; the host does not."""
    if sent.arrived is None:
        return sent.micro
    stream = torch.cuda.current_stream(device)
    stream.wait_event(sent.arrived)

    def used(tensor: Tensor) -> Tensor:
        # Else its memory is given to the next copy as soon as the host drops it, while the engine may still read it.
        tensor.record_stream(stream)
        return tensor

    return _with(sent.micro, sent.micro.batch.each(used))


def _with(micro: MicroBatch, batch: Batch) -> MicroBatch:
    return MicroBatch(micro.indices, micro.last, batch)
