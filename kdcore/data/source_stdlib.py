"""The Python standard library's own source on this machine."""

import os
import sysconfig
from collections.abc import Iterator

from kdcore.config.data import Kind, PythonStdlibData
from kdcore.data.base import BaseSource
from kdcore.data.document import Extent, SampleRef, TextDocument
from kdcore.data.files import NamedFile, relative_name
from kdcore.data.formats.whole import Whole
from kdcore.data.inputs import local_file

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
        self._files = Whole()
        self._root = sysconfig.get_path("stdlib")
        super().__init__(config.heldout_fraction, config.max_samples, f"the standard library at {self._root}")

    def read(self, ref: SampleRef) -> TextDocument:
        """The source of a module. Raises UnreadableDocument."""
        return TextDocument(ref.name, self._files.row(ref))

    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        return self._files.samples(extent)

    def _find(self) -> Iterator[Extent]:
        found: list[Extent] = []
        for path in python_files(self._root):
            found += self._files.cut(NamedFile(relative_name(path, self._root), local_file(path)))
        return iter(sorted((extent for extent in found if extent.num_bytes > 0), key=lambda extent: extent.name))


def python_files(root: str) -> list[str]:
    """Python's files in a folder of the standard library, without tests and vendored packages; sorted."""
    found: list[str] = []
    for folder, folders, files in os.walk(root):
        folders[:] = set(folders) - _SKIPPED
        found += (os.path.join(folder, file) for file in files if file.endswith(".py"))
    return sorted(found)
