"""Passages of the Python standard library on this machine, and the module that each is from; no download."""

import hashlib
import os
import sysconfig
from collections import Counter
from collections.abc import Iterator
from functools import cached_property

from kdcore.config.data import Kind, StdlibPassagesData
from kdcore.data.base import BaseSource
from kdcore.data.document import ClassifiedText, Extent, SampleRef
from kdcore.data.files import relative_name
from kdcore.data.source_stdlib import python_files
from kdcore.errors import DataError
from kdcore.identity import digest_json

_Passage = tuple[str, str, int]
"""Name, text, class."""


class StdlibPassagesSource(BaseSource):
    """A few lines each, without indentation and empty lines; what stands in several places is left out."""

    kind: Kind = "classified_text"

    def __init__(self, config: StdlibPassagesData) -> None:
        self._config, self._root = config, sysconfig.get_path("stdlib")
        super().__init__(config.heldout_fraction, config.max_samples, f"the standard library at {self._root}")

    @property
    def num_classes(self) -> int:
        """A module each."""
        return len(self._config.modules)

    def read(self, ref: SampleRef) -> ClassifiedText:
        """One passage."""
        name, text, target = self._passages[ref.index]
        return ClassifiedText(name, text, None, target)

    def _find(self) -> Iterator[Extent]:
        size = sum(len(text.encode()) for _, text, _ in self._passages)
        yield Extent("passages", self._root, 0, len(self._passages), size, version=digest_json(self._passages))

    def _samples(self, extent: Extent) -> Iterator[SampleRef]:
        for row in range(extent.start, extent.stop):
            name, text, _ = self._passages[row]
            yield SampleRef(name, extent.source, row, len(text.encode()))

    @cached_property
    def _passages(self) -> list[_Passage]:
        modules = [list(self._of_module(name, target)) for target, name in enumerate(self._config.modules)]
        times = Counter(text for module in modules for _, text, _ in module)
        once = [[passage for passage in module if times[passage[1]] == 1] for module in modules]
        for name, module in zip(self._config.modules, once, strict=True):
            if not module:
                raise DataError(
                    f"every module of data.modules is a class, and '{name}' has no passage of {self._config.lines} "
                    "lines that is its own: leave it out, or set data.lines lower"
                )
        return [passage for module in once for passage in sorted(module, key=_rank)[: self._config.per_module]]

    def _of_module(self, module: str, target: int) -> Iterator[_Passage]:
        folder = os.path.join(self._root, module)
        files = python_files(folder) if os.path.isdir(folder) else [f"{folder}.py"]
        step = self._config.lines
        for path in files:
            file = relative_name(path, self._root)
            lines = [line.strip() for line in _text(path, module).splitlines() if line.strip()]
            for number, start in enumerate(range(0, len(lines) - step + 1, step)):
                yield f"{file}:{number:04d}", "\n".join(lines[start : start + step]), target


def _rank(passage: _Passage) -> bytes:
    """The passages that are kept of a long module are a sample of it, the same on every machine."""
    return hashlib.sha256(passage[1].encode()).digest()


def _text(path: str, module: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"data.modules must name modules of this Python's standard library; '{module}' is none: {error}. Take "
            "another one, or install the whole library (some systems ship a part of it)"
        ) from error
