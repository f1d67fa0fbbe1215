"""Files by path or glob, named so that the name does not depend on where the corpus lies."""

import glob
import os
from pathlib import Path

from kdcore.data.document import WHOLE_FILE, Extent, SampleRef
from kdcore.errors import DataError

EXTENT_BYTES = 64 << 20
"""About what one slice of a file holds: it is read in one go, and the samples of a unit should lie in one."""

_MAGIC = "*?["


def find_files(patterns: str | tuple[str, ...], setting: str) -> dict[str, str]:
    """Name -> path of every file that the patterns match, sorted by name; `~` and `**` are understood.

    A name is the path below the deepest folder that all patterns share. Raises DataError, naming the pattern and
    the `setting` to change, for a pattern without a file.
    """
    given = (patterns,) if isinstance(patterns, str) else patterns
    matches = {pattern: _matches(pattern, setting) for pattern in given}
    paths = sorted({path for found in matches.values() for path in found})
    root = os.path.commonpath([_fixed_folder(pattern) for pattern in given])
    return {Path(os.path.relpath(path, root)).as_posix(): path for path in paths}


def whole_file(name: str, path: str) -> Extent:
    """The extent of a file that is one sample."""
    return Extent(name, path, 0, 1, os.path.getsize(path))


def whole_sample(extent: Extent) -> SampleRef:
    """The one sample of a whole file."""
    return SampleRef(extent.name, extent.source, WHOLE_FILE, extent.num_bytes)


def _matches(pattern: str, setting: str) -> list[str]:
    expanded = os.path.abspath(os.path.expanduser(pattern))
    found = [path for path in glob.glob(expanded, recursive=True) if os.path.isfile(path)]
    if os.path.isfile(expanded) and not found:  # a literal name with brackets in it
        found = [expanded]
    if not found:
        folder = os.path.isdir(expanded)
        what = "is a folder" if folder else "matches no file"
        hint = f"A folder needs a pattern: '{pattern.rstrip('/')}/**/*.txt'." if folder else "Is the path right?"
        raise DataError(
            f"{setting} must match at least one file: '{pattern}' ({expanded}) {what}. {hint} "
            "A relative path starts at the folder that the command runs in."
        )
    return found


def _fixed_folder(pattern: str) -> str:
    """The folder above the first part of the pattern that has a wildcard, or above the file."""
    path = Path(os.path.abspath(os.path.expanduser(pattern)))
    if path.exists():
        return str(path.parent)
    parts = path.parts
    wild = next((at for at, part in enumerate(parts) if any(char in part for char in _MAGIC)), len(parts) - 1)
    return str(Path(*parts[:wild]))
