"""The Python standard library's own source on this machine."""

import os
import sysconfig
from pathlib import Path

from kdcore.config.data import PythonStdlibData
from kdcore.data.base import BaseSource
from kdcore.data.document import WHOLE_FILE, Kind, Refs, SampleRef, TextDocument
from kdcore.data.source_text import read_text

_SKIPPED = frozenset(
    {
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idle_test",
        "__pycache__",
        "lib2to3",
        "idlelib",
        "turtledemo",
        "ensurepip",
    }
)


class StdlibSource(BaseSource):
    """Every module that is not empty, tests and vendored packages excluded; whole modules are held out."""

    kind: Kind = "text"

    def __init__(self, config: PythonStdlibData) -> None:
        self._root = sysconfig.get_path("stdlib")
        super().__init__(config.heldout_fraction, config.max_samples, f"the standard library at {self._root}")

    def read(self, ref: SampleRef) -> TextDocument:
        """The source of a module. Raises UnreadableDocument."""
        return TextDocument(ref.name, read_text(ref))

    def _find(self) -> Refs:
        refs: Refs = []
        for folder, folders, files in os.walk(self._root):
            folders[:] = sorted(set(folders) - _SKIPPED)
            for path in (Path(folder, file) for file in files if file.endswith(".py")):
                size = path.stat().st_size
                if size > 0:
                    refs.append(SampleRef(path.relative_to(self._root).as_posix(), str(path), WHOLE_FILE, size))
        return refs
