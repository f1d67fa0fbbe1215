"""A place in a local (or mounted) file system: hard links, renames and fsync."""

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from kdcore.errors import CorruptShard, KDError, StoreError, out_of_space
from kdcore.identity import digest_file
from kdcore.store.storage.place import MappedFile, Place, altered, missing, wrong_size

__all__ = ["LocalPlace", "fsync_dir"]


def fsync_dir(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class LocalPlace(Place):
    """A directory."""

    threads = min(8, os.cpu_count() or 1)

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, str(path)

    def __reduce__(self) -> tuple[type["LocalPlace"], tuple[Path]]:
        return type(self), (self.path,)

    def prepare(self, *folders: str) -> None:
        """Make the directories, durably."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for folder in folders:
                (self.path / folder).mkdir(exist_ok=True)
            fsync_dir(self.path)
        except OSError as error:
            raise out_of_space(error, self.path, 0) from error

    def entries(self, folder: str = "") -> list[str]:
        """Names in the directory."""
        path = self.path / folder
        try:
            return sorted(entry.name for entry in path.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"{path} must be a directory: {error}; set labels.path elsewhere") from error

    def read(self, name: str) -> bytes:
        """All bytes of a plain file."""
        path = self.path / name
        try:
            self._refuse_link(path, path.lstat())
            return path.read_bytes()
        except CorruptShard:
            raise
        except NotADirectoryError as error:
            raise FileNotFoundError(str(error)) from error
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error}; restore it from a copy") from error

    def size(self, name: str) -> int | None:
        """Bytes of a plain file."""
        path = self.path / name
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StoreError(f"cannot look at {path}: {error}") from error
        self._refuse_link(path, found)
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def _refuse_link(self, path: Path, found: os.stat_result) -> None:
        if stat.S_ISLNK(found.st_mode) or (path.parent != self.path and path.parent.is_symlink()):
            raise CorruptShard(f"a store has plain files, but {path} goes through a symbolic link: refused")

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of plain files; symbolic links are not among them."""
        return {name: found.st_size for name, found in self._scan(folder)}

    def ages(self, folder: str) -> Mapping[str, float]:
        """Seconds since each file's last change."""
        now = time.time()
        return {name: now - found.st_mtime for name, found in self._scan(folder)}

    def _scan(self, folder: str) -> list[tuple[str, os.stat_result]]:
        path = self.path / folder if folder else self.path
        if folder and path.is_symlink():
            raise CorruptShard(f"a store has plain files, but {path} is a symbolic link: refused")
        prefix = f"{folder}/" if folder else ""
        found: list[tuple[str, os.stat_result]] = []
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    with contextlib.suppress(FileNotFoundError):  # removed since
                        if entry.is_file(follow_symlinks=False):
                            found.append((prefix + entry.name, entry.stat(follow_symlinks=False)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"cannot list {path}: {error}") from error
        return found

    def put_if_absent(self, name: str, content: bytes) -> bool:
        """By a hard link, which is the put-if-absent of a file system: it fails when the name is taken."""

        def link(temporary: Path, path: Path) -> bool:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            return True

        return self._publish(name, content, link)

    def put(self, name: str, content: bytes) -> None:
        """By a rename over the old file."""

        def replace(temporary: Path, path: Path) -> bool:
            os.replace(temporary, path)
            return True

        self._publish(name, content, replace)

    def _publish(self, name: str, content: bytes, move: Callable[[Path, Path], bool]) -> bool:
        path = self.path / name
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                _sync(file)
            moved = move(temporary, path)
            if moved:
                fsync_dir(path.parent)
            return moved
        except OSError as error:
            raise out_of_space(error, path, len(content)) from error
        finally:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                temporary.unlink()

    def delete(self, name: str) -> None:
        """Unlink; a symbolic link itself goes, not what it points to."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove {self.path / name}: {error}") from error

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[BinaryIO]:
        """A hidden file, synced and renamed at the end of the block; removed when the block fails."""
        path = self.path / name
        partial = path.with_name(f".{path.name}.partial")
        try:
            with open(partial, "xb") as file:
                yield file
                _sync(file)
            os.rename(partial, path)
            fsync_dir(path.parent)
        except KDError:  # of the rows; some of them are OSErrors too
            raise
        except OSError as error:
            raise out_of_space(error, path, partial.stat().st_size if partial.exists() else 0) from error
        finally:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                partial.unlink()

    def local_file(self, name: str, size: int, digest: str, verify: bool = False) -> Path:
        """The file itself."""
        found = self.size(name)
        if found is None:
            raise missing(self.where(name))
        if found != size:
            raise wrong_size(self.where(name), size, found)
        if verify:
            digest_found = _digest(self.path / name)
            if digest_found != digest:
                raise altered(self.where(name), digest, digest_found)
        return self.path / name

    def load(self, name: str, size: int) -> MappedFile:
        """The file, mapped."""
        return self.mapped(name, size, "")

    def unfinished_uploads(self, min_age_seconds: float, ours: Callable[[str], bool], abort: bool) -> list[str]:
        """None: what was not finished is a hidden file here."""
        return []


def _digest(path: Path) -> str:
    try:
        return digest_file(path)
    except OSError as error:
        raise CorruptShard(f"{path} cannot be read ({error}): restore it from a copy") from error


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
