"""Every error that this project raises on purpose, in one picklable hierarchy.

A message states the rule, the value received, the likely cause and the setting to change. Errors travel
between processes (Ray, torch.distributed), so each is rebuilt from its message alone.
"""

import errno
import shutil
from pathlib import Path

__all__ = [
    "CheckpointError",
    "ClusterError",
    "ConfigError",
    "CorruptShard",
    "DataError",
    "IdentityMismatch",
    "IncompleteStore",
    "KDError",
    "LabelError",
    "MissingExtra",
    "MissingLabels",
    "OutOfSpace",
    "ResourceError",
    "RunMismatch",
    "StorageUnavailable",
    "StoreError",
    "TeacherError",
    "TeacherUnavailable",
    "TokenizerMismatch",
    "TrainingError",
    "UnitFailed",
    "UnreadableDocument",
    "missing_extra",
    "out_of_space",
    "portable",
    "printable",
]


class KDError(Exception):
    """Base of all errors of this project; one message, safe to pickle, print and store."""

    def __init__(self, message: str) -> None:
        self.message = printable(message)
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type["KDError"], tuple[str]]:
        return type(self), (self.message,)


class ConfigError(KDError, ValueError):
    """A setting is unknown, of the wrong type, or impossible in combination with another."""


class DataError(KDError, ValueError):
    """The input data are missing, empty or malformed."""


class UnreadableDocument(DataError):
    """One document or image could not be read or decoded."""


class TeacherError(KDError, ValueError):
    """The teacher cannot be loaded safely, or does not fit its tokenizer or data."""


class TeacherUnavailable(TeacherError):
    """A teacher behind an endpoint did not answer, or said that it cannot now; the same may work a moment later."""


class TokenizerMismatch(TeacherError):
    """Tokenizer and model, or two tokenizers that must be one, differ."""


class LabelError(KDError, ValueError):
    """Teacher outputs or stored labels are not valid soft labels (NaN, infinite, inconsistent)."""


class StoreError(KDError, RuntimeError):
    """A label store cannot be written or read."""


class StorageUnavailable(StoreError):
    """The storage did not answer, or said that it cannot now; the same may work a moment later."""


class IncompleteStore(StoreError):
    """The store has no manifest: it was never finished, or it is not a store."""


class CorruptShard(StoreError):
    """A shard is missing, truncated or altered: its bytes do not match the manifest."""


class IdentityMismatch(StoreError, ValueError):
    """The store was made by another teacher, tokenizer, codec or input than the one asked for."""


class MissingLabels(StoreError, KeyError):
    """A sample of the data has no label in the store."""


class UnitFailed(KDError, RuntimeError):
    """A work unit failed for good; the message names it."""


class OutOfSpace(KDError, OSError):
    """The disk is full; what was published before stays intact."""


class ClusterError(KDError, RuntimeError):
    """The Ray cluster cannot be reached or refused us."""


class ResourceError(ClusterError):
    """The cluster does not have what the job asks for."""


class TrainingError(KDError, RuntimeError):
    """Training cannot go on (no valid token, loss not finite)."""


class CheckpointError(KDError, RuntimeError):
    """A checkpoint is incomplete, altered or not ours."""


class RunMismatch(KDError, ValueError):
    """The run directory holds a run of another configuration."""


class MissingExtra(KDError, ImportError):
    """An optional dependency is not installed; the message is the line that installs it."""


def missing_extra(package: str, extra: str, purpose: str) -> MissingExtra:
    """The one-line error for an optional package that is not installed."""
    return MissingExtra(f"{purpose} needs '{package}', which is not installed: pip install 'kdcore[{extra}]'")


# EFBIG is what a limit on file size (ulimit -f) answers.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def out_of_space(error: OSError, path: Path, needed: int) -> KDError:
    """OutOfSpace when the disk is full (or the quota spent), else a StoreError with the system's reason."""
    if error.errno not in _NO_ROOM:
        return StoreError(f"cannot write {path}: {error}")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    return OutOfSpace(
        f"the disk is full: {path} needed at least {needed:,} bytes, {folder} has {free:,} free. What was "
        f"published stays; free some space, or set labels.path (or runs, or KDCORE_CACHE) to another disk, and start "
        f"again"
    )


def printable(text: str) -> str:
    """Text in valid UTF-8: bytes of a file's name that are none, surrogates to Python, are spelled out."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def portable(error: Exception) -> Exception:
    """A KDError as it is; anything else as its text, since not every exception survives pickling."""
    return error if isinstance(error, KDError) else RuntimeError(f"{type(error).__name__}: {error}")
