"""Copies of remote files on this machine: named by their digest, shared by all processes, the least used removed."""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from kdcore.errors import StoreError

__all__ = ["cache_bytes", "cache_directory", "cached", "fetching", "make_room", "mark_used", "publish_copy"]

_DEFAULT_BYTES = 50_000_000_000
# What somebody was just given may not be open yet.
_GRACE_SECONDS = 60.0
_lock = threading.Lock()
_added: dict[Path, int] = {}


def cache_directory() -> Path:
    """Where copies lie: $KDCORE_CACHE, else `kdcore` in the user's cache directory."""
    chosen = os.environ.get("KDCORE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdcore"


def cache_bytes() -> int:
    """About how much the cache may hold: $KDCORE_CACHE_BYTES, else 50 GB. StoreError when it is no positive number."""
    text = os.environ.get("KDCORE_CACHE_BYTES") or str(_DEFAULT_BYTES)
    if not text.isdecimal() or int(text) < 1:
        raise StoreError(f"KDCORE_CACHE_BYTES must be a whole number of bytes, at least 1, got {text!r}")
    return int(text)


def cached(digest: str) -> Path:
    """Where the copy of a file lies, or will."""
    return cache_directory() / "files" / digest[:2] / digest


@contextlib.contextmanager
def fetching(digest: str) -> Iterator[None]:
    """Only one thread of one process of this machine fetches a file; the others wait, and then find its copy.

    The locks end with their process and their files stay: a lock whose file may go locks nothing. So that they do not
    become many, digests of one beginning share a lock. Raises OSError where the cache cannot be written.
    """
    path = cache_directory() / "locks" / digest[:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def publish_copy(partial: Path, path: Path) -> None:
    """Give a whole copy its name, unless it is taken; a file that readers may have mapped is never replaced."""
    try:
        os.link(partial, path)
    except FileExistsError:  # by another machine, where the cache is on a shared disk: the same bytes
        return


def mark_used(path: Path) -> int | None:
    """Bytes of a copy, None when there is none; it is in use from now on, and not removed for a minute.

    Kept in its access time, which file systems often do not keep themselves.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        state = os.fstat(descriptor)
        with contextlib.suppress(PermissionError):  # another user's copy
            # A reader that has it open watches its modification time.
            os.utime(descriptor, ns=(time.time_ns(), state.st_mtime_ns))
        return state.st_size
    finally:
        os.close(descriptor)


def make_room(size: int) -> None:
    """After `size` more bytes: remove copies until the cache is within its bound, first what was used longest ago.

    Looked at on the first call and then after every sixteenth of the bound. A copy that is mapped stays readable.
    """
    folder, bound = cache_directory(), cache_bytes()
    with _lock:
        added = _added[folder] = _added.get(folder, bound) + size
        if added < bound // 16:
            return
        _added[folder] = 0
    _trim(folder, bound)


def _trim(folder: Path, bound: int) -> None:
    found: list[tuple[float, int, Path]] = []
    for path in (folder / "files").glob("*/*"):
        with contextlib.suppress(FileNotFoundError):  # another process trims too
            found.append((_last_used(path), path.stat().st_size, path))
    excess = sum(size for _, size, _ in found) - bound
    for _, size, path in sorted(found):
        if excess <= 0:
            return
        with contextlib.suppress(FileNotFoundError):
            if time.time() - _last_used(path) > _GRACE_SECONDS:
                path.unlink()
                excess -= size


def _last_used(path: Path) -> float:
    state = path.stat()
    return max(state.st_atime, state.st_mtime)
