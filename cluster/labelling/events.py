"""The record of what did not go as usual while labels were made: one JSON line each, for a person and for tools."""

import contextlib
import errno
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcore.errors import out_of_space

__all__ = ["EventLog", "events_file"]


def events_file(run_dir: Path) -> Path:
    """Where a run records its events."""
    return run_dir / "labels-events.jsonl"


class EventLog:
    """Lines are appended to `path`; a line is whole or, after a crash, the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Append one event with the time of day. OutOfSpace when the disk is full: then the line is not there.

        Files are opened for each: events are rare.
        """
        line = (json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False) + "\n").encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._append(line)
        except OSError as error:
            raise out_of_space(error, self._path, len(line)) from error

    def _append(self, line: bytes) -> None:
        with self._path.open("ab", buffering=0) as file:
            whole = file.tell()
            try:
                if file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(whole)  # else the next line would go on where this one was torn
                raise
