"""Files by path, URL or glob, named so that the name does not depend on where the corpus lies."""

import os
import posixpath
from dataclasses import dataclass

from kdcore.config.urls import check_url, is_url
from kdcore.data.inputs import InputFile, absolute, fixed_folder, inputs_of
from kdcore.errors import DataError, printable


@dataclass(frozen=True, order=True)
class NamedFile:
    """A file of a corpus: `name` is its path below the deepest folder that all patterns share."""

    name: str
    file: InputFile

    @property
    def path(self) -> str:
        """Where it lies, a path or a URL."""
        return self.file.path


def find_files(patterns: str | tuple[str, ...], setting: str) -> list[NamedFile]:
    """Every file that the patterns match, sorted by name; `~` and `**` are understood.

    Raises DataError, naming the pattern and the `setting` to change, for a pattern without a file; ConfigError for a
    URL that is none, or has a secret in it.
    """
    given = (patterns,) if isinstance(patterns, str) else patterns
    for pattern in filter(is_url, given):
        check_url(pattern, setting)
    found = {file.path: file for pattern in given for file in _matches(pattern, setting)}
    root = common_folder([fixed_folder(pattern) for pattern in given], setting)
    return sorted(NamedFile(relative_name(path, root), file) for path, file in found.items())


def common_folder(folders: list[str], setting: str) -> str:
    """The deepest folder, absolute or a URL, that holds all folders. Raises DataError for several storages."""
    remote = [is_url(folder) for folder in folders]
    if not any(remote):
        return os.path.commonpath(folders)
    schemes = {folder.split("://", 1)[0] for folder in folders} if all(remote) else set()
    if len(schemes) != 1:
        raise DataError(f"{setting} must lie in one storage, got local and remote ones together: {sorted(folders)}")
    scheme = schemes.pop()
    return f"{scheme}://{posixpath.commonpath([folder.split('://', 1)[1] for folder in folders])}"


def relative_name(path: str, root: str) -> str:
    """What a file or folder below `root` is called, in valid UTF-8."""
    if not is_url(path):
        return printable(os.path.relpath(path, root).replace(os.sep, "/"))
    return printable(path.removeprefix(f"{root.rstrip('/')}/") if not root.endswith("://") else path.split("://", 1)[1])


def _matches(pattern: str, setting: str) -> list[InputFile]:
    found = inputs_of(pattern, setting).matches(pattern)
    if found:
        return found
    folder = os.path.isdir(absolute(pattern))
    what = "is a folder" if folder else "matches no file"
    hint = f"A folder needs a pattern: '{pattern.rstrip('/')}/**/*.txt'." if folder else "Is the path right?"
    where, note = f" ({absolute(pattern)})", " A relative path starts at the folder that the command runs in."
    if is_url(pattern):
        where, note = "", " Files below a prefix need a pattern such as s3://bucket/prefix/**/*.jsonl."
    raise DataError(f"{setting} must match at least one file: '{pattern}'{where} {what}. {hint}{note}")
