"""Where things lie in a store, and the few file operations that publish them."""

import contextlib
import errno
import os
import re
import secrets
import shutil
from pathlib import Path

from kdcore.errors import CorruptShard, KDError, OutOfSpace, StoreError

__all__ = [
    "CARD",
    "DATA",
    "IDENTITY",
    "JOURNAL",
    "MANIFEST",
    "check_unit",
    "fsync_dir",
    "out_of_space",
    "publish_file",
    "shard_file",
]

MANIFEST, IDENTITY, CARD = "manifest.json", "identity.json", "README.md"
DATA, JOURNAL = "data", "journal"
# EFBIG is what a limit on file size (ulimit -f) answers.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def check_unit(unit: str) -> str:
    """A unit id that is safe as a file name; StoreError otherwise."""
    if not _UNIT.fullmatch(unit):
        raise StoreError(f"a unit id is letters, digits, '-' and '_', got {unit!r}")
    return unit


def shard_file(store: Path, shard: str) -> Path:
    """The file of a manifest's or receipt's shard; CorruptShard unless it is a plain file name in data/."""
    name = shard.removeprefix(f"{DATA}/")
    if not shard.startswith(f"{DATA}/") or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*\.arrow", name):
        raise CorruptShard(f"a shard is '{DATA}/NAME.arrow' inside its store, {store} says {shard!r}: refused")
    path = store / DATA / name
    if path.is_symlink() or path.parent.is_symlink():
        raise CorruptShard(f"shards must be files, but {path} goes through a symbolic link: refused")
    return path


def fsync_dir(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def out_of_space(error: OSError, path: Path, needed: int) -> KDError:
    """OutOfSpace when the disk is full (or the quota spent), else a StoreError with the system's reason."""
    if error.errno not in _NO_ROOM:
        return StoreError(f"cannot write {path}: {error}")
    free = shutil.disk_usage(path.parent).free
    return OutOfSpace(
        f"the disk is full: {path} needed at least {needed:,} bytes, {path.parent} has {free:,} free. What was "
        f"published stays; free some space, or set labels.path (or runs) to another disk, and start again"
    )


def publish_file(path: Path, content: bytes, *, replace: bool = False) -> bool:
    """Write `path` whole and durably, or not at all; without `replace` the first writer wins (False: it existed)."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return _move(temporary, path, replace)
    except OSError as error:
        raise out_of_space(error, path, len(content)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def _move(temporary: Path, path: Path, replace: bool) -> bool:
    if replace:
        os.replace(temporary, path)
    else:
        try:
            # A hard link is the put-if-absent of a file system: it fails when the name is taken.
            os.link(temporary, path)
        except FileExistsError:
            return False
    fsync_dir(path.parent)
    return True
