"""A place that holds a store: what the store needs of a file system or an object store, and no more."""

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from kdcore.errors import CorruptShard, KDError

__all__ = ["HeldBytes", "MappedFile", "Place", "Replaced", "Sink", "Source", "altered", "missing", "wrong_size"]

_REMEDY = "restore it from a copy, or remove it and manifest.json and run `kd precompute` again"


class Replaced(CorruptShard):
    """Another file has the name now that was being opened."""


def missing(where: str) -> CorruptShard:
    """A file that the manifest names is not there."""
    return CorruptShard(f"{where} is missing: {_REMEDY}")


def wrong_size(where: str, wanted: int, found: int) -> CorruptShard:
    """A file is shorter or longer than the manifest says."""
    return CorruptShard(f"{where} must have {wanted} bytes, it has {found}: {_REMEDY}")


def altered(where: str, wanted: str, found: str) -> CorruptShard:
    """A file's bytes are not those whose digest the manifest holds."""
    return CorruptShard(f"{where} was altered: its digest must be {wanted}, it is {found}: {_REMEDY}")


class Sink(Protocol):
    """Where a file's bytes go, in order."""

    def write(self, data: Any, /) -> Any:
        """Take all of `data` (bytes-like)."""
        ...


class Source(Protocol):
    """A file's bytes, held or mapped."""

    @property
    def buffer(self) -> pa.Buffer:
        """All of it."""
        ...

    def check(self) -> None:
        """CorruptShard when the bytes under `buffer` may no longer be those that were opened."""
        ...


class HeldBytes:
    """Bytes in memory; nobody can change them."""

    def __init__(self, content: bytes) -> None:
        self.buffer = pa.py_buffer(content)

    def check(self) -> None:
        """Nothing to check."""


class MappedFile:
    """A file mapped for reading. Its descriptor stays open, so that `check` sees the very file that is mapped."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._modified = os.fstat(self._descriptor).st_mtime_ns
            self.check()
            self.buffer = self._map() if size else pa.py_buffer(b"")  # an empty file cannot be mapped
        except BaseException:
            os.close(self._descriptor)
            self._descriptor = -1
            raise

    def _map(self) -> pa.Buffer:
        """The mapping lives as long as its buffers and holds no descriptor: a batch may look into many shards."""
        with pa.memory_map(str(self.path)) as file:
            buffer = file.read_buffer(self.size)
        ours, named = os.fstat(self._descriptor), os.stat(self.path)
        if buffer.size != self.size or (ours.st_dev, ours.st_ino) != (named.st_dev, named.st_ino):
            raise Replaced(f"{self.path} was replaced while it was opened: start again")
        return buffer

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)

    def check(self) -> None:
        """CorruptShard when the file was cut or written to: touching a page behind its end would kill the process."""
        state = os.fstat(self._descriptor)
        if state.st_size != self.size:
            raise wrong_size(str(self.path), self.size, state.st_size)
        if state.st_mtime_ns != self._modified:
            raise CorruptShard(
                f"{self.path} was written to while it was read; published files never change: restore it from a copy "
                f"(verify with `kd store verify`), and start again"
            )


class Place(ABC):
    """Where a store lives. Names are relative to it, with '/': 'manifest.json', 'data/x.arrow'.

    Failures of the storage itself are StoreErrors (OutOfSpace for a full disk), never raw errors of a client library.
    """

    url: str
    """Path or URL, for people and for `open_place`; holds no credentials."""

    threads: int
    """How many operations at once are worth while."""

    remote = False
    """Whether files are copied into the cache of this machine before they are mapped."""

    trusts_nobody = False
    """Whether put-if-absent must be tried on the storage before it is relied on."""

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Place) and other.url == self.url

    def __hash__(self) -> int:
        return hash(self.url)

    def where(self, name: str) -> str:
        """Path or URL of a file, for messages."""
        return f"{self.url}/{name}"

    @abstractmethod
    def prepare(self, *folders: str) -> None:
        """Make the place and its folders, where there is such a thing."""

    @abstractmethod
    def entries(self, folder: str = "") -> list[str]:
        """Names of files and folders in a folder ('' is the root), sorted; none when it does not exist."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """All bytes of a file; FileNotFoundError when there is none."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file, None when there is none; CorruptShard for a symbolic link."""

    @abstractmethod
    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the plain files directly in a folder, by their name in the place, hidden ones too."""

    @abstractmethod
    def ages(self, folder: str) -> Mapping[str, float]:
        """Seconds since each plain file directly in a folder ('' is the root) was written."""

    @abstractmethod
    def put_if_absent(self, name: str, content: bytes) -> bool:
        """Publish a file whole and durably, unless there is one (False). Of several at once, exactly one wins."""

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Publish a file whole and durably, in place of the one that is there."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file; nothing happens when there is none."""

    @abstractmethod
    def writer(self, name: str) -> contextlib.AbstractContextManager[Sink]:
        """Stream a new file: it appears, whole and durable, when the `with` block ends; an error in it leaves nothing.

        The name must be of this attempt alone.
        """

    @abstractmethod
    def local_file(self, name: str, size: int, digest: str, verify: bool = False) -> Path:
        """A local file with these bytes: the file itself, or a copy in the cache, whose digest is compared once.

        CorruptShard when it is missing or of another size. `verify` compares the digest now: CorruptShard when it
        differs; a copy that was damaged since is made anew.
        """

    def mapped(self, name: str, size: int, digest: str, verify: bool = False) -> MappedFile:
        """`local_file`, mapped for reading; CorruptShard when it cannot be."""
        try:
            return MappedFile(self.local_file(name, size, digest, verify), size)
        except KDError:  # some of them are OSErrors too
            raise
        except OSError as error:
            raise CorruptShard(f"{self.where(name)} cannot be read ({error}): restore it from a copy") from error

    @abstractmethod
    def load(self, name: str, size: int) -> Source:
        """The bytes of a file for one use, not kept in any cache; CorruptShard when missing or of another size."""

    @abstractmethod
    def unfinished_uploads(self, min_age_seconds: float, ours: Callable[[str], bool], abort: bool) -> list[str]:
        """Uploads that began at least so long ago and never ended, of names in this place that are `ours`.

        Returns the names, sorted; with `abort` the uploads are ended too.
        """
