"""SIGTERM as a notice: the step in work is finished and saved, then the process ends with the shell's code for it."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(SystemExit):
    """Raised when what was to be kept is saved; the same command goes on from there."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class Notice:
    """Whether this process was told to end."""

    def __init__(self) -> None:
        self.given = False

    def handle(self, number: int, frame: object) -> None:
        """The signal's handler. Launchers and schedulers send it more than once, also while the checkpoint is saved."""
        self.given = True


@contextmanager
def termination_notice() -> Iterator[Notice]:
    """Takes SIGTERM as a notice inside the block; outside of the main thread signals go to others, and none comes."""
    notice = Notice()
    if threading.current_thread() is not threading.main_thread():
        yield notice
        return
    before = signal.signal(signal.SIGTERM, notice.handle)
    try:
        yield notice
    finally:
        signal.signal(signal.SIGTERM, before)
