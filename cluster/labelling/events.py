"""The record of what did not go as usual while labels were made: one JSON line each, for a person and for tools."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["EventLog"]


class EventLog:
    """Lines are appended to `path`; a line is whole or, after a crash, the last one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Append one event with the time of day. Files are opened for each: events are rare."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **event}, ensure_ascii=False) + "\n")
