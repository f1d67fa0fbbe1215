"""Items made ahead in a thread: same order, bounded, errors and ends as without one."""

import signal
import threading
import traceback
from collections.abc import Generator

import pytest

from kdcore.errors import CorruptShard
from kdcore.training.ahead import ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("kdcore-ahead")]


class Counter:
    """A generator of 0 .. stop - 1 that notes what it has begun, waits for `gate` and tells when it is closed."""

    def __init__(self, stop: int, fails_at: int | None = None) -> None:
        self.begun: list[int] = []
        self.begins = threading.Condition()
        self.gate, self.closed = threading.Event(), False
        self.gate.set()
        self._stop, self._fails_at = stop, fails_at

    def items(self) -> Generator[int, None, None]:
        try:
            for number in range(self._stop):
                with self.begins:
                    self.begun.append(number)
                    self.begins.notify_all()
                assert self.gate.wait(20)
                if number == self._fails_at:
                    raise CorruptShard(f"item {number}")
                yield number
        finally:
            self.closed = True

    def wait_until_begun(self, count: int) -> None:
        with self.begins:
            assert self.begins.wait_for(lambda: len(self.begun) >= count, timeout=20)


@pytest.mark.parametrize("depth", [0, 1, 3, 20])
def test_order_and_end_are_those_of_the_generator(depth):
    source = Counter(7)
    with ahead(source.items(), depth) as items:
        assert list(items) == list(range(7))
        assert next(items, None) is None
    assert source.closed
    assert threads() == []


def test_as_many_are_made_ahead_as_asked_and_no_more():
    source = Counter(10)
    with ahead(source.items(), 3) as items:
        assert next(items) == 0
        source.wait_until_begun(4)  # the one that was taken, and three
        assert next(items) == 1
        source.wait_until_begun(5)
        assert source.begun == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("depth", [0, 2])
def test_an_error_comes_in_its_turn_as_it_was_raised(depth):
    source, taken = Counter(7, fails_at=3), []
    with pytest.raises(CorruptShard, match="item 3") as caught, ahead(source.items(), depth) as items:
        taken += items  # += keeps what came before the error
    assert type(caught.value) is CorruptShard
    assert any(frame.name == "items" for frame in traceback.extract_tb(caught.value.__traceback__))
    assert taken == [0, 1, 2]
    assert source.closed
    assert threads() == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("depth", [0, 2])
def test_nothing_is_left_when_the_block_ends_early(error, depth):
    source = Counter(100)

    def run() -> None:
        with ahead(source.items(), depth) as items:
            next(items)
            raise error

    with pytest.raises(error):
        run()
    assert source.closed
    assert threads() == []
    assert len(source.begun) <= 1 + depth + 1


def test_an_interrupt_while_waiting_ends_the_wait():
    source, main = Counter(5), threading.get_ident()
    source.gate.clear()

    def interrupt() -> None:
        signal.pthread_kill(main, signal.SIGINT)
        source.gate.set()

    def run() -> None:
        with ahead(source.items(), 1) as items:
            threading.Timer(0.05, interrupt).start()
            list(items)

    # Where tests run in the background, SIGINT is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert source.closed
    assert threads() == []


def test_one_may_feed_another():
    source = Counter(50)

    def doubled() -> Generator[int, None, None]:
        with ahead(source.items(), 4) as items:
            for item in items:
                yield 2 * item

    with ahead(doubled(), 2) as items:
        assert [next(items) for _ in range(5)] == [0, 2, 4, 6, 8]
    assert source.closed
    assert threads() == []
