"""torch.save that says when the disk is full."""

import io
from pathlib import Path
from typing import Any

import torch


class _Remembers(io.FileIO):
    """torch wraps what its file raises in errors without a number: the first is kept here."""

    problem: OSError | None = None

    def write(self, data: Any, /) -> int:
        """All of `data`, or OSError."""
        view, done = memoryview(data).cast("B"), 0
        try:
            while done < len(view):
                done += super().write(view[done:])
        except OSError as error:
            self.problem = self.problem or error
            raise
        return done


def save_state(state: Any, path: Path) -> None:
    """Write `state` to `path`; OSError with its errno when that fails."""
    file = _Remembers(path, "w")
    try:
        torch.save(state, file)
    except (OSError, RuntimeError):
        if file.problem is None:
            raise
        raise file.problem from None
    finally:
        file.close()
