"""Checkpoints that are whole or not there: written aside, digested, then renamed into place."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from kdcore.errors import OutOfSpace
from kdcore.identity import digest_file

_COMPLETE = "complete.json"
_ASIDE = ".partial-"
_NO_SPACE = 28  # errno.ENOSPC

Note = Callable[[str], None]


def checkpoint_path(root: Path, step: int) -> Path:
    """The directory of the checkpoint after `step` optimizer steps."""
    return root / f"step-{step:08d}"


def begin_checkpoint(root: Path, step: int) -> Path:
    """An empty directory aside (rank 0 only); the engine fills it, `finish_checkpoint` publishes it."""
    aside = root / f"{_ASIDE}step-{step:08d}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    return aside


def aside_path(root: Path, step: int) -> Path:
    """Where `begin_checkpoint` made its directory."""
    return root / f"{_ASIDE}step-{step:08d}"


def finish_checkpoint(root: Path, step: int, keep: int) -> Path:
    """Digest what lies aside, sync it, rename it into place, and drop all but the newest `keep` (rank 0 only)."""
    aside, final = aside_path(root, step), checkpoint_path(root, step)
    try:
        record = {"format": 1, "step": step, "files": {name: _describe(aside / name) for name in _files(aside)}}
        _write_synced(aside / _COMPLETE, json.dumps(record, indent=1))
    except OSError as error:
        if error.errno == _NO_SPACE:
            shutil.rmtree(aside, ignore_errors=True)
            raise OutOfSpace(
                f"no space for a checkpoint in {root}; free some, or lower training.checkpoint.keep ({keep})"
            ) from error
        raise
    _sync_directories(aside)
    shutil.rmtree(final, ignore_errors=True)  # a torn one of the same step
    aside.rename(final)
    _sync(root)
    for old in _steps(root)[:-keep]:
        shutil.rmtree(checkpoint_path(root, old), ignore_errors=True)
    return final


def latest_checkpoint(root: Path, note: Note) -> int:
    """The step of the newest complete checkpoint, 0 if there is none. Torn ones are passed over, and `note`d."""
    for step in reversed(_steps(root)):
        problem = check_checkpoint(checkpoint_path(root, step))
        if problem is None:
            return step
        note(f"checkpoint {checkpoint_path(root, step)} is not complete ({problem}); trying the one before")
    return 0


def check_checkpoint(directory: Path) -> str | None:
    """What is wrong with a checkpoint, file by file against its digests; None if nothing is."""
    try:
        record = json.loads((directory / _COMPLETE).read_text())
        files = {str(name): (int(entry["bytes"]), str(entry["digest"])) for name, entry in record["files"].items()}
    except FileNotFoundError:
        return f"{_COMPLETE} is missing"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{_COMPLETE} is not readable: {error}"
    if set(files) != set(_files(directory)):
        return f"files differ from the list in {_COMPLETE}: {sorted(set(files) ^ set(_files(directory)))}"
    for name, (size, digest) in files.items():
        path = directory / name
        if path.is_symlink() or path.stat().st_size != size or digest_file(path) != digest:
            return f"{name} has other bytes than when it was written"
    return None


def _describe(path: Path) -> dict[str, int | str]:
    _sync(path)
    return {"bytes": path.stat().st_size, "digest": digest_file(path)}


def _files(directory: Path) -> list[str]:
    paths = sorted(path for path in directory.rglob("*") if not path.is_dir())
    return [path.relative_to(directory).as_posix() for path in paths if path.name != _COMPLETE]


def _steps(root: Path) -> list[int]:
    names = [path.name.removeprefix("step-") for path in root.glob("step-*")]
    return sorted(int(name) for name in names if name.isdigit())


def _write_synced(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_directories(root: Path) -> None:
    for directory in [*(path for path in root.rglob("*") if path.is_dir()), root]:
        _sync(directory)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
