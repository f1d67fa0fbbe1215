"""A storage that is away for a moment, asked again: a job of many replicas does not end over one answer."""

import time
from collections.abc import Callable
from typing import TypeVar

from cluster.labelling.policy.state import LONGEST_WAIT
from kdcore.errors import StorageUnavailable

__all__ = ["patiently"]

Result = TypeVar("Result")


def patiently(
    action: Callable[[], Result], attempts: int, seconds: float, on_note: Callable[[str], None] = print
) -> Result:
    """What `action` returns, tried up to `attempts` times with waits that double from `seconds`.

    The action must be one that may be done twice. Raises its last StorageUnavailable, and any other error at once.
    """
    for number in range(1, attempts):
        try:
            return action()
        except StorageUnavailable as error:
            wait = min(LONGEST_WAIT, seconds * 2.0 ** (number - 1))
            on_note(f"labels: {error}; trying again in {wait:g} s ({number} of {attempts - 1})")
            time.sleep(wait)
    return action()
