"""`metrics.jsonl` of an arm, and the same numbers for TensorBoard where it is installed."""

import importlib.util
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from kdcore.errors import out_of_space


class MetricsLog:
    """Appends one line per logged step. Lines after `resume_step`, left by a killed run, are dropped first.

    OutOfSpace when the disk is full: the lines before stay.
    """

    def __init__(self, directory: Path, resume_step: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "metrics.jsonl"
        kept = [line for line in read_metrics(self._path) if line["step"] <= resume_step]
        self._keep("".join(json.dumps(line) + "\n" for line in kept))
        self.seconds_before = float(kept[-1]["seconds"]) if kept else 0.0
        self._board = _tensorboard(directory, resume_step)

    def _keep(self, text: str) -> None:
        aside = self._path.with_name(f".partial-{self._path.name}")
        try:
            aside.write_text(text)
            os.replace(aside, self._path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise out_of_space(error, self._path, len(text)) from error

    def write(self, values: dict[str, Any]) -> None:
        """Add a line; `values` holds `step`, numbers, and what is not drawn."""
        line = json.dumps(values) + "\n"
        try:
            with self._path.open("a") as file:
                file.write(line)
        except OSError as error:
            raise out_of_space(error, self._path, len(line)) from error
        if self._board is not None:
            for name, value in values.items():
                if name != "step" and isinstance(value, int | float):
                    self._board.add_scalar(name, value, values["step"])

    def close(self) -> None:
        """Flush and close what is drawn."""
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, up to a torn one; none when there is no file."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:  # the line that was being written when the process was killed
            break
    return lines


def _tensorboard(directory: Path, resume_step: int) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(directory / "tensorboard"), purge_step=resume_step + 1)
