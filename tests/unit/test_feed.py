"""What the loop is fed: the batches of the plan, ahead of time, with errors and waits where they belong."""

import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.errors import CorruptShard, StorageUnavailable
from kdcore.labels.soft_labels import DenseLabels
from kdcore.store import open_store
from kdcore.training import feed as feed_module
from kdcore.training.batches import TextBatch
from kdcore.training.feed import feeding
from tests.support.stores import make_store

CPU = torch.device("cpu")
STEPS = [[np.array([0, 3]), np.array([1])], [np.array([2])], [np.array([4, 5]), np.array([], dtype=np.int64)]]


@dataclass
class Numbered:
    """Samples whose batches hold their numbers; notes what happens, in order."""

    elsewhere: bool = False
    fails_at: int | None = None
    happened: list[tuple[str, list[int]]] = field(default_factory=list)
    lengths: np.ndarray = field(default_factory=lambda: np.ones(6, dtype=np.int64))
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return 6

    def tokens(self, indices: np.ndarray) -> int:
        return len(indices)

    def bring(self, indices: np.ndarray) -> None:
        self.happened.append(("bring", indices.tolist()))
        if self.fails_at in indices.tolist():
            raise StorageUnavailable("the bucket is away")

    def batch(self, indices: np.ndarray, layout: Any = "padded") -> TextBatch:
        self.happened.append(("batch", indices.tolist()))
        if not self.elsewhere and self.fails_at in indices.tolist():
            raise CorruptShard(f"sample {self.fails_at}")
        numbers = torch.from_numpy(indices)
        return TextBatch(numbers[None], numbers, numbers, DenseLabels(torch.zeros(len(indices), 2)))


def taken(samples: Any, depth: int) -> list[list[tuple[list[int], bool, list[int]]]]:
    with feeding(samples, STEPS, "padded", CPU, depth) as feed:
        return [
            [(part.indices.tolist(), part.last, part.batch.targets.tolist()) for part in feed.step()] for _ in STEPS
        ]


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("kdcore")]


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("depth", [0, 1, 2, 50])
def test_any_depth_gives_the_micro_batches_of_the_plan(depth, elsewhere):
    wanted = [
        [(indices.tolist(), number == len(parts) - 1, indices.tolist()) for number, indices in enumerate(parts)]
        for parts in STEPS
    ]
    assert taken(Numbered(elsewhere), depth) == wanted
    assert threads() == []


@pytest.mark.parametrize(("elsewhere", "error"), [(False, CorruptShard), (True, StorageUnavailable)])
@pytest.mark.parametrize("depth", [0, 2])
def test_errors_of_making_a_batch_come_as_they_are(depth, elsewhere, error):
    samples = Numbered(elsewhere and depth > 0, fails_at=2)
    if depth == 0:
        error = CorruptShard
    with feeding(samples, STEPS, "padded", CPU, depth) as feed:
        assert len(list(feed.step())) == 2
        with pytest.raises(error) as caught:
            list(feed.step())
    assert type(caught.value) is error
    assert threads() == []


def test_what_lies_elsewhere_is_brought_before_it_is_read():
    samples = Numbered(elsewhere=True)
    taken(samples, 1)
    for indices in ([0, 3], [1], [2], [4, 5]):
        assert samples.happened.index(("bring", indices)) < samples.happened.index(("batch", indices))


@pytest.mark.parametrize(("elsewhere", "depth"), [(False, 2), (True, 0)])
def test_nothing_is_brought_where_it_would_save_nothing(elsewhere, depth):
    samples = Numbered(elsewhere)
    taken(samples, depth)
    assert {what for what, _ in samples.happened} == {"batch"}


def test_the_wait_is_what_making_a_batch_takes_where_none_is_made_ahead(monkeypatch):
    now, samples = [100.0], Numbered()
    monkeypatch.setattr(feed_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    make = samples.batch

    def slow(indices: np.ndarray, layout: Any = "padded") -> TextBatch:
        now[0] += 2.0
        return make(indices, layout)

    monkeypatch.setattr(samples, "batch", slow)
    with feeding(samples, STEPS, "padded", CPU, 0) as feed:
        for _ in feed.step():
            now[0] += 50.0  # the engine's work is not a wait
        assert feed.waited == 4.0
        list(feed.step())
        assert feed.waited == 6.0


class Cuda:
    """What the feed asks of torch.cuda, noting the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[Any] = []
        self.engine = SimpleNamespace(wait_event=lambda event: self.calls.append(("engine waits for", event)))
        for name, value in {
            "Stream": lambda device: self._side(device),
            "stream": lambda stream: self._within("stream"),
            "device": lambda device: self._within(f"device {device}"),
            "current_stream": lambda device: self.engine,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)

        def pinned(tensor: torch.Tensor) -> torch.Tensor:
            self.calls.append("pin")
            return tensor

        def copied(tensor: torch.Tensor, device: torch.device, non_blocking: bool = False) -> torch.Tensor:
            assert non_blocking
            self.calls.append("copy")
            return tensor

        monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
        monkeypatch.setattr(torch.Tensor, "to", copied)
        monkeypatch.setattr(
            torch.Tensor, "record_stream", lambda tensor, stream: self.calls.append(("used by", stream))
        )

    def _side(self, device: torch.device) -> Any:
        self.calls.append(f"side stream on {device}")

        def recorded() -> str:
            self.calls.append("event")
            return "event"

        return SimpleNamespace(record_event=recorded)

    def _within(self, what: str) -> Any:
        calls = self.calls

        class Block:
            def __enter__(self) -> None:
                calls.append(f"in {what}")

            def __exit__(self, *error: object) -> None:
                calls.append(f"out of {what}")

        return Block()


def test_a_gpu_gets_copies_on_a_stream_of_their_own_that_the_engine_waits_for(monkeypatch):
    cuda = Cuda(monkeypatch)
    with feeding(Numbered(), STEPS, "padded", torch.device("cuda:1"), 0) as feed:
        part = next(feed.step())
    tensors = 4  # input_ids, positions, targets, log_probs
    assert cuda.calls == [
        "side stream on cuda:1",
        *("in device cuda:1", "in stream"),
        *["pin"] * tensors,
        *["copy"] * tensors,
        *("event", "out of stream", "out of device cuda:1"),
        ("engine waits for", "event"),
        *[("used by", cuda.engine)] * tensors,
    ]
    assert part.batch.targets.tolist() == [0, 3]


def test_the_shards_of_a_batch_are_copied_together(tmp_path, monkeypatch):
    monkeypatch.setenv("KDCORE_CACHE", str(tmp_path / "cache"))
    store = open_store(make_store(f"memory://{tmp_path.name}/store"))
    shards = len(store.manifest.shards)
    assert shards > 1
    assert store.place.remote
    together = threading.Barrier(shards, timeout=20)
    fetch = type(store.place)._fetch

    def fetched(place: Any, name: str, *rest: Any) -> None:
        together.wait()  # passes only when all of them are at work at once
        fetch(place, name, *rest)

    monkeypatch.setattr(type(store.place), "_fetch", fetched)
    store.bring(np.arange(store.num_rows))
    monkeypatch.setattr(type(store.place), "_fetch", None)
    assert store.labels(store.num_rows - 1).num_labels > 0
    store.bring(np.arange(store.num_rows))  # nothing is left to copy
    assert threads() == []
