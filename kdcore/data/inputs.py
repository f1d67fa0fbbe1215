"""Input files, in the file system or at a URL: found, listed and opened, with failures that name the file."""

import contextlib
import errno
import glob
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from kdcore.config.urls import is_url
from kdcore.errors import DataError, KDError, StorageUnavailable

_MAGIC = frozenset("*?[")
# What is wrong with the file itself; else (ESTALE, EIO, ETIMEDOUT, EMFILE) the disk or the machine cannot now.
_LASTING = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
)
_BUFFER_BYTES = 1 << 16


@dataclass(frozen=True, order=True)
class InputFile:
    """A file: path or URL, bytes, and a version that changes when it is written anew."""

    path: str
    num_bytes: int
    version: str


class Inputs(Protocol):
    """Where files lie. Failures are DataErrors that name the file; StorageUnavailable where they may pass."""

    def matches(self, pattern: str) -> list[InputFile]:
        """The files of a pattern (`*`, `[...]` and `**`; hidden ones only by name), or the file of this very name."""
        ...

    def listed(self, folder: str) -> tuple[list[InputFile], list[str]]:
        """Files and folders directly in a folder; none when there is no such folder."""
        ...

    def open(self, path: str, block_bytes: int) -> BinaryIO:
        """A file for reading at any place; from a URL `block_bytes` at a time, or, when 0, just what is asked for."""
        ...

    def read(self, path: str) -> bytes:
        """All of a file."""
        ...

    def version(self, path: str) -> str:
        """What changes when a file is written anew; "" where there is none."""
        ...

    def canonical(self, path: str) -> str:
        """The same for all paths of one file or folder: without symbolic links, or by the storage's first scheme."""
        ...


def inputs_of(path: str, setting: str = "data.path") -> Inputs:
    """What reaches a path, a URL, or a pattern of either. Raises ConfigError for a scheme that fsspec does not know."""
    if not is_url(path):
        return _Local()
    return _Remote(path.split("://", 1)[0], setting)


def fixed_folder(pattern: str) -> str:
    """The folder above the first part of a pattern that has a wildcard, or above the file; absolute, `~` expanded."""
    if is_url(pattern):
        scheme, inner = pattern.rstrip("/").split("://", 1)
        return f"{scheme}://{'/'.join(_fixed(inner.split('/')))}"
    path = Path(absolute(pattern))
    return str(path.parent) if path.exists() else str(Path(*_fixed(path.parts)))


def absolute(path: str) -> str:
    """A local path without `~`, made absolute; a URL as it is."""
    return path if is_url(path) else os.path.abspath(os.path.expanduser(path))


def _fixed(parts: Sequence[str]) -> list[str]:
    wild = (at for at, part in enumerate(parts) if _MAGIC & set(part))
    return list(parts[: next(wild, len(parts) - 1)])


class _Local:
    def matches(self, pattern: str) -> list[InputFile]:
        expanded = absolute(pattern)
        found = [path for path in glob.glob(expanded, recursive=True) if os.path.isfile(path)]
        if os.path.isfile(expanded) and not found:  # a literal name with brackets in it
            found = [expanded]
        with _explained(pattern):
            return [local_file(path) for path in found]

    def listed(self, folder: str) -> tuple[list[InputFile], list[str]]:
        if not os.path.isdir(folder):
            return [], []
        with _explained(folder), os.scandir(folder) as entries:
            found = list(entries)
            files = [local_file(entry.path) for entry in found if entry.is_file()]
            return files, [entry.path for entry in found if entry.is_dir()]

    def open(self, path: str, block_bytes: int) -> BinaryIO:
        with _explained(path):
            raw = _LocalFile(path)
        return io.BufferedReader(raw, min(block_bytes or io.DEFAULT_BUFFER_SIZE, _BUFFER_BYTES))

    def read(self, path: str) -> bytes:
        with _explained(path), open(path, "rb") as file:
            return file.read()

    def version(self, path: str) -> str:
        with _explained(path):
            try:
                return local_file(path).version
            except (FileNotFoundError, NotADirectoryError):
                return ""

    def canonical(self, path: str) -> str:
        return os.path.realpath(path)


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    try:
        yield
    except KDError:
        raise
    except OSError as error:
        raise_passing(path, error)
        raise DataError(f"'{path}' cannot be read: {error}") from error


class _LocalFile(io.FileIO):
    """A file whose failures are ours."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path

    def readinto(self, buffer: Any, /) -> int | None:
        with _explained(self._path):
            return super().readinto(buffer)

    def readall(self) -> bytes:
        with _explained(self._path):
            return super().readall()


def raise_passing(path: str, error: BaseException) -> None:
    """Raises StorageUnavailable for an error of the operating system that says nothing of the file itself."""
    number = getattr(error, "errno", None)
    if isinstance(error, OSError) and number is not None and number not in _LASTING:
        raise StorageUnavailable(
            f"cannot read {path}: {error}. Is the disk that it lies on there and sound, and may this machine open as "
            "many files? Then start again, what was published stays"
        ) from error


def local_file(path: str) -> InputFile:
    """A file of this machine, by its size and time of change."""
    state = os.stat(path)
    return InputFile(path, state.st_size, f"{state.st_size}-{state.st_mtime_ns}")


class _Remote:
    """A filesystem that fsspec knows, the store's own: same settings, same attempts, same errors."""

    def __init__(self, scheme: str, setting: str) -> None:
        from kdcore.store.storage.filesystem import filesystem, storage_errors

        self._fs, self._scheme, self._setting = filesystem(scheme, setting), scheme, setting
        self._errors = storage_errors()

    def matches(self, pattern: str) -> list[InputFile]:
        parts = pattern.split("://", 1)[1].rstrip("/").split("/")
        with self.explained(pattern):
            self._fs.invalidate_cache()
            if "*" not in pattern:  # brackets may be part of a name
                with contextlib.suppress(FileNotFoundError):
                    found = self._fs.info(self._inner(pattern))
                    if found["type"] == "file" and found["name"].strip("/") == self._inner(pattern).strip("/"):
                        return [self._file(found)]
            fixed = _fixed(parts)
            return [self._file(item) for item in self._expand("/".join(fixed), parts[len(fixed) :])]

    def _expand(self, folder: str, parts: Sequence[str]) -> Iterator[dict[str, Any]]:
        # Not fsspec's own glob: it takes a listing that fails for an empty one.
        if "**" in parts[:1]:
            for item in self._find(folder):
                if _matches(_below(item["name"], folder).split("/"), parts):
                    yield item
            return
        last = len(parts) == 1
        for item in self._list(folder):
            name = item["name"].rstrip("/").rsplit("/", 1)[-1]
            if _matches_name(name, parts[0]) and (item["type"] == "file") == last:
                if last:
                    yield item
                else:
                    yield from self._expand(f"{folder}/{name}", parts[1:])

    def listed(self, folder: str) -> tuple[list[InputFile], list[str]]:
        with self.explained(folder):
            self._fs.invalidate_cache()
            found = self._list(folder.split("://", 1)[1].rstrip("/"))
        files = [self._file(item) for item in found if item["type"] == "file"]
        return files, [self._url(item["name"]) for item in found if item["type"] == "directory"]

    def open(self, path: str, block_bytes: int) -> BinaryIO:
        options = {"block_size": block_bytes, "cache_type": "readahead"} if block_bytes else {"cache_type": "none"}
        with self.explained(path):
            raw = _RemoteFile(self._fs.open(self._inner(path), "rb", **options), self, path)
        return raw if not block_bytes else io.BufferedReader(raw, min(block_bytes, _BUFFER_BYTES))  # pyright: ignore

    def read(self, path: str) -> bytes:
        with self.explained(path):
            return self._fs.cat_file(self._inner(path))

    def version(self, path: str) -> str:
        with self.explained(path):
            self._fs.invalidate_cache()
            try:
                return self._file(self._fs.info(self._inner(path))).version
            except FileNotFoundError:
                return ""

    def canonical(self, path: str) -> str:
        protocols = self._fs.protocol
        first = protocols if isinstance(protocols, str) else protocols[0]
        return f"{first}://{self._inner(path).strip('/')}"

    @contextlib.contextmanager
    def explained(self, path: str) -> Iterator[None]:
        """Failures of the storage in our words."""
        from kdcore.store.storage.filesystem import is_passing, reason

        try:
            yield
        except KDError:
            raise
        except self._errors as error:
            if is_passing(error):
                raise StorageUnavailable(
                    f"cannot read {path}: {reason(error)}. Check that the storage answers, and its endpoint; then "
                    "start again, what was published stays"
                ) from None  # a client's error may carry the request, with its signature
            raise DataError(
                f"'{path}' cannot be read: {reason(error)}. Check that there is such a bucket and file, endpoint and "
                f"region, and that your credentials may read it; or set {self._setting}"
            ) from None

    def _list(self, folder: str) -> list[dict[str, Any]]:
        itself = self._inner(folder)
        try:
            found = self._fs.ls(itself, detail=True)
        except FileNotFoundError:
            return []
        # Not an object that stands for the folder, nor, where there is no such folder, the file of this name.
        return [item for item in found if item["name"].rstrip("/").rpartition("/")[0] == itself]

    def _find(self, folder: str) -> list[dict[str, Any]]:
        try:
            found = self._fs.find(self._inner(folder), detail=True)
        except FileNotFoundError:
            return []
        files = (item for item in found.values() if item["type"] == "file" and not item["name"].endswith("/"))
        return [item for item in files if item["name"].startswith(f"{self._inner(folder)}/")]

    def _inner(self, path: str) -> str:
        return self._fs._strip_protocol(path if is_url(path) else f"{self._scheme}://{path}")

    def _url(self, name: str) -> str:
        return f"{self._scheme}://{name.strip('/')}"

    def _file(self, item: dict[str, Any]) -> InputFile:
        marks = (item.get(name) for name in ("ETag", "etag", "LastModified", "last_modified", "mtime", "created"))
        version = next((str(mark) for mark in marks if mark), "")
        return InputFile(self._url(item["name"]), int(item["size"]), version)


class _RemoteFile(io.RawIOBase):
    """A file of fsspec whose failures are ours, also where Arrow reads it from a thread of its own."""

    def __init__(self, file: Any, inputs: _Remote, path: str) -> None:
        self._file, self._inputs, self._path = file, inputs, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1, /) -> bytes:
        with self._inputs.explained(self._path):
            return self._file.read(size)

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _below(name: str, folder: str) -> str:
    return name.strip("/").removeprefix(f"{folder.strip('/')}/")


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path below a folder is one of a pattern, as glob has it."""
    if not parts or not names:
        return not parts and not names
    if parts[0] != "**":
        return _matches_name(names[0], parts[0]) and _matches(names[1:], parts[1:])
    if len(parts) == 1:
        return not any(name.startswith(".") for name in names)
    visible = next((at for at, name in enumerate(names) if name.startswith(".")), len(names))
    return any(_matches(names[at:], parts[1:]) for at in range(visible + 1))


def _matches_name(name: str, part: str) -> bool:
    return fnmatchcase(name, part) and (part.startswith(".") or not name.startswith("."))
