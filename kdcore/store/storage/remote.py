"""A place in an object store, over fsspec: conditional puts instead of links, aborted uploads instead of renames.

A place holds no credential (see filesystem.py): it is pickled as its URL.
"""

import contextlib
import datetime
import io
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from kdcore.errors import CorruptShard, KDError, StorageUnavailable, StoreError, out_of_space
from kdcore.identity import digest_file
from kdcore.store.storage.cache import cached, fetching, make_room, mark_used, publish_copy
from kdcore.store.storage.filesystem import CONFLICT, error_code, filesystem, is_passing, reason, storage_errors
from kdcore.store.storage.place import HeldBytes, MappedFile, Place, Replaced, Sink, altered, missing, wrong_size

__all__ = ["RemotePlace"]

# S3 takes 10,000 parts of at least 5 MiB: shards up to 160 GB.
_PART_BYTES = 16 << 20
_CONFLICTS = 5
# Answers of S3 to a conditional put whose name is taken.
_TAKEN = frozenset({"PreconditionFailed", "412"})


class RemotePlace(Place):
    """BUCKET/PREFIX of a filesystem that fsspec knows."""

    remote = True
    threads = 16
    trusts_nobody = True

    def __init__(self, scheme: str, path: str) -> None:
        if not path:
            raise StoreError(f"a store's URL is {scheme}://BUCKET/PREFIX, this one names no bucket: set labels.path so")
        self.url, self._root, self._scheme = f"{scheme}://{path}", path, scheme
        self._made = (os.getpid(), filesystem(scheme, "labels.path"))
        self._root = self._fs._strip_protocol(self.url)
        self._errors = storage_errors()

    def __reduce__(self) -> tuple[type["RemotePlace"], tuple[str, str]]:
        return type(self), (self._scheme, self.url.removeprefix(f"{self._scheme}://"))

    @property
    def _fs(self) -> Any:
        """The filesystem of this process: one that was forked, as a DataLoader's workers are, needs its own."""
        if self._made[0] != os.getpid():
            self._made = (os.getpid(), filesystem(self._scheme, "labels.path"))
        return self._made[1]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _explained(self, action: str, name: str) -> Iterator[None]:
        """Failures of the storage as StoreErrors, StorageUnavailable where they may pass.

        A file that is not there to be read stays a FileNotFoundError.
        """
        try:
            yield
        except KDError:
            raise
        except self._errors as error:
            if action == "read" and isinstance(error, FileNotFoundError):
                raise
            kind = StorageUnavailable if is_passing(error) else StoreError
            raise kind(
                f"cannot {action} {self.where(name) if name else self.url}: {reason(error)}. Check that the storage "
                f"answers, its endpoint and region, and that your credentials may do this; then start again, "
                f"what was published stays"
            ) from None  # a client's error may carry the request, with its signature

    def prepare(self, *folders: str) -> None:
        """Nothing to make: prefixes are not directories."""

    def entries(self, folder: str = "") -> list[str]:
        """Names of objects and prefixes; an object that stands for the folder itself is none of them."""
        itself = f"{self._path(folder)}/"
        listed = [item["name"] for item in self._list(folder) if item["name"] != itself]
        return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in listed)

    def _list(self, folder: str) -> list[dict[str, Any]]:
        with self._explained("list", folder):
            self._fs.invalidate_cache()
            try:
                return self._fs.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return []

    def read(self, name: str) -> bytes:
        """All bytes of an object."""
        with self._explained("read", name):
            return self._fs.cat_file(self._path(name))

    def size(self, name: str) -> int | None:
        """Bytes of an object."""
        with self._explained("look at", name):
            self._fs.invalidate_cache()
            try:
                found = self._fs.info(self._path(name))
            except FileNotFoundError:
                return None
        return int(found["size"]) if found["type"] == "file" else None

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of the objects directly below a prefix; one listing, a thousand objects a request."""
        return {name: int(item["size"]) for name, item in self._files(folder).items()}

    def ages(self, folder: str) -> Mapping[str, float]:
        """Seconds since each object was written; infinite where the storage does not say."""
        now = time.time()
        return {name: now - _written(item) for name, item in self._files(folder).items()}

    def _files(self, folder: str) -> dict[str, dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        found = {prefix + item["name"].rsplit("/", 1)[-1]: item for item in self._list(folder) if _is_file(item)}
        return {name: item for name, item in found.items() if name != prefix}

    def put_if_absent(self, name: str, content: bytes) -> bool:
        """By a conditional put (If-None-Match: *).

        A put that was retried after it had worked answers False as well: compare with what is there.
        """
        for attempt in range(_CONFLICTS):
            with self._explained("write", name):
                try:
                    self._fs.pipe_file(self._path(name), content, mode="create")
                    return True
                except self._errors as error:
                    if isinstance(error, FileExistsError) or error_code(error) in _TAKEN:
                        return False
                    if error_code(error) not in CONFLICT or attempt == _CONFLICTS - 1:
                        raise
            time.sleep(0.1 * 2**attempt)
        raise AssertionError("the last attempt returns or raises")

    def put(self, name: str, content: bytes) -> None:
        """By one put."""
        with self._explained("write", name):
            self._fs.pipe_file(self._path(name), content)

    def delete(self, name: str) -> None:
        """Remove an object."""
        with self._explained("remove", name), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    @contextlib.contextmanager
    def writer(self, name: str) -> Iterator[Sink]:
        """A single put, or a multipart upload that is completed at the end of the block, or aborted.

        Filesystems without uploads of several parts take the whole file from memory in one put.
        """
        with self._explained("write", name):
            if not hasattr(self._fs, "abort_mpu"):
                whole = io.BytesIO()
                yield whole
                self._fs.pipe_file(self._path(name), whole.getvalue(), mode="create")
                return
            file = self._fs.open(self._path(name), "xb", block_size=_PART_BYTES)
            try:
                yield file
                self._complete(file, name)
            except BaseException:
                # Else the file would complete its upload when it is garbage collected.
                file.closed = True
                with contextlib.suppress(*self._errors):  # the storage is away: `unfinished_uploads` finds it later
                    file.discard()
                raise

    def _complete(self, file: Any, name: str) -> None:
        try:
            file.close()
        except self._errors:
            # The answer to a completion may be lost, and the retry then finds the name taken, by ourselves.
            if self.size(name) != file.loc:
                raise

    def local_file(self, name: str, size: int, digest: str, verify: bool = False) -> Path:
        """A verified copy in the cache, named by its digest; downloaded once, also when many processes ask at once."""
        if not re.fullmatch(r"[0-9a-f]{32}", digest):
            raise StoreError(f"a digest is 32 hexadecimal characters, {self.where(name)} is said to have {digest!r}")
        path = cached(digest)
        try:
            if not _is_held(path, size, digest, verify):
                with fetching(digest):
                    # Whoever held the lock before may have fetched it.
                    if not _is_held(path, size, digest, verify):
                        path.unlink(missing_ok=True)  # it was damaged
                        self._fetch(name, size, digest, path)
        except KDError:
            raise
        except OSError as error:
            raise out_of_space(error, path, size) from error
        return path

    def mapped(self, name: str, size: int, digest: str, verify: bool = False) -> MappedFile:
        """The copy, mapped; once more when it was removed from the cache, or made anew, just then.

        Copies are named by their digest: another file of the name has the same bytes.
        """
        try:
            return MappedFile(self.local_file(name, size, digest, verify), size)
        except (FileNotFoundError, Replaced):
            return super().mapped(name, size, digest, verify)
        except KDError:
            raise
        except OSError as error:
            raise CorruptShard(f"{self.where(name)} cannot be read ({error}): restore it from a copy") from error

    def _fetch(self, name: str, size: int, digest: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{digest}.{secrets.token_hex(8)}.partial")
        try:
            self._download(name, size, digest, partial)
            publish_copy(partial, path)
            make_room(size)
        finally:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                partial.unlink()

    def _download(self, name: str, size: int, digest: str, path: Path) -> None:
        with self._explained("read", name), open(path, "xb") as file:
            try:
                with self._fs.open(self._path(name), "rb", block_size=_PART_BYTES) as source:
                    while block := source.read(_PART_BYTES):
                        file.write(block)
            except FileNotFoundError:
                raise missing(self.where(name)) from None
        found = path.stat().st_size
        if found != size:
            raise wrong_size(self.where(name), size, found)
        digest_found = digest_file(path)
        if digest_found != digest:
            raise altered(self.where(name), digest, digest_found)

    def load(self, name: str, size: int) -> HeldBytes:
        """The object, in memory."""
        try:
            content = self.read(name)
        except FileNotFoundError:
            raise missing(self.where(name)) from None
        if len(content) != size:
            raise wrong_size(self.where(name), size, len(content))
        return HeldBytes(content)

    def unfinished_uploads(self, min_age_seconds: float, ours: Callable[[str], bool], abort: bool) -> list[str]:
        """Multipart uploads below this prefix (S3 bills their parts until they are aborted)."""
        if not hasattr(self._fs, "abort_mpu"):
            return []
        bucket, prefix = self._root.split("/", 1) if "/" in self._root else (self._root, "")
        prefix = f"{prefix}/" if prefix else ""
        now = datetime.datetime.now(datetime.UTC)
        found: list[str] = []
        with self._explained("list the uploads of", ""):
            for upload in _uploads(self._fs, bucket, prefix):
                name = upload["Key"].removeprefix(prefix)
                if not ours(name) or (now - upload["Initiated"]).total_seconds() < min_age_seconds:
                    continue
                found.append(name)
                if abort:
                    self._fs.abort_mpu(bucket, upload["Key"], upload["UploadId"])
        return sorted(found)


def _is_held(path: Path, size: int, digest: str, verify: bool) -> bool:
    """Whether there is a copy of the right size (and digest, if asked); it is in use from now on."""
    try:
        return mark_used(path) == size and (not verify or digest_file(path) == digest)
    except FileNotFoundError:  # another process makes room
        return False


def _uploads(fs: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """All pages of a bucket's unfinished uploads below a prefix."""
    marker: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **marker)
        # Not every server heeds the prefix.
        yield from (upload for upload in page.get("Uploads", []) if upload["Key"].startswith(prefix))
        if not page.get("IsTruncated"):
            return
        marker = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def _is_file(item: Mapping[str, Any]) -> bool:
    return item["type"] == "file" and not item["name"].endswith("/")


def _written(item: Mapping[str, Any]) -> float:
    value = item.get("LastModified") or item.get("created") or item.get("mtime") or item.get("updated")
    if isinstance(value, datetime.datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else 0.0
