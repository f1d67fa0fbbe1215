"""A storage that is away for a moment, asked again: a job of many replicas does not end over one answer."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from cluster.labelling.policy.state import LONGEST_WAIT
from kdcore.config.labels import LabelsConfig
from kdcore.errors import StorageUnavailable

__all__ = ["Patience"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Patience:
    """Tries up to `attempts` times, with waits that double from `seconds`, and says so by `on_note`."""

    attempts: int
    seconds: float
    on_note: Callable[[str], None] = print

    @classmethod
    def of(cls, labels: LabelsConfig, on_note: Callable[[str], None]) -> "Patience":
        """As a recipe's `labels` have it."""
        return cls(labels.max_attempts, labels.retry_seconds, on_note)

    def __call__(self, action: Callable[[], Result]) -> Result:
        """What `action` returns, which must be one that may be done twice.

        Raises its last StorageUnavailable, and any other error at once.
        """
        for number in range(1, self.attempts):
            try:
                return action()
            except StorageUnavailable as error:
                wait = min(LONGEST_WAIT, self.seconds * 2.0 ** (number - 1))
                self.on_note(f"labels: {error}; trying again in {wait:g} s ({number} of {self.attempts - 1})")
                time.sleep(wait)
        return action()
