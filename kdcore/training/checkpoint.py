"""Checkpoints that are whole or not there: written aside, digested, then renamed into place.

ROOT/step-00000200 holds `complete.json` and what the engine wrote, ROOT/universal-step-00000200 the same converted for
another number of ranks, and the file ROOT/latest the name of the newest, for people and scripts.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kdcore.errors import CheckpointError, OutOfSpace
from kdcore.identity import digest_file
from kdcore.training.step_plan import deal

_COMPLETE = "complete.json"
_ASIDE, _CONVERTED = ".partial-", "universal-"
# EFBIG is what a limit on file size (ulimit -f) answers.
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_HERE = "; the run's directory must be one that all ranks' machines share: mount it on each, and start again"

Note = Callable[[str], None]
"""Told what a person should know."""


def checkpoint_path(root: Path, step: int) -> Path:
    """The directory of the checkpoint after `step` optimizer steps."""
    return root / f"step-{step:08d}"


def converted_path(checkpoint: Path) -> Path:
    """Where the conversion of a checkpoint for another number of ranks goes: beside it."""
    return checkpoint.with_name(f"{_CONVERTED}{checkpoint.name}")


def aside_path(final: Path) -> Path:
    """Where `final` is written before it is whole."""
    return final.with_name(f"{_ASIDE}{final.name}")


def begin(final: Path) -> Path:
    """An empty directory aside (rank 0 only), to be filled and then published by `publish`."""
    aside = aside_path(final)
    _clear(final)
    with room_for(final):
        aside.mkdir(parents=True)
        _digests_path(final).mkdir()  # an error where digests of before are still there
    return aside


def digest_share(final: Path, rank: int, world: int) -> None:
    """Digest and sync this rank's share of what lies aside, once all is written, and note it for `publish`.

    Ranks have about as many bytes each, so that none waits while one reads what all wrote. A rank that does not see
    where to note them leaves its share to the first.
    """
    aside, notes = aside_path(final), _digests_path(final)
    if not notes.is_dir():
        return
    names = _files(aside)
    ranks = deal(np.array([(aside / name).stat().st_size for name in names], dtype=np.int64), world)
    with room_for(final):
        share = {name: _describe(aside / name) for name, owner in zip(names, ranks, strict=True) if owner == rank}
        _write_synced(notes / f"{rank}.json", json.dumps(share))


def publish(final: Path, record: dict[str, Any]) -> None:
    """Digest what lies aside, sync it, mark it complete with `record`, rename it into place (rank 0 only).

    What ranks noted by `digest_share` is taken from there, unless the file has another size by now.
    """
    aside = aside_path(final)
    noted: dict[str, dict[str, int | str]] = {}
    for share in _digests_path(final).glob("*.json"):
        noted |= json.loads(share.read_text())
    with room_for(final):
        # Where a file system shows files late, a rank may have dealt without one, or read less of it.
        files = {
            name: noted[name] if _has_size(aside / name, noted.get(name)) else _describe(aside / name)
            for name in _files(aside)
        }
        _write_synced(aside / _COMPLETE, json.dumps({"format": 1, **record, "files": files}, indent=1))
    _sync_directories(aside)
    shutil.rmtree(final, ignore_errors=True)  # a torn one of the same name
    aside.rename(final)
    _sync(final.parent)
    shutil.rmtree(_digests_path(final), ignore_errors=True)


def finish_checkpoint(root: Path, step: int, keep: int, record: dict[str, Any]) -> None:
    """Publish the checkpoint that lies aside, point `latest` to it, drop all but the newest `keep` (rank 0 only)."""
    final = checkpoint_path(root, step)
    publish(final, {"step": step, **record})
    _point_latest(root, final)
    # A conversion is of use until training has gone on from it; what lies aside was left by a kill.
    useless = [*root.glob(f"{_CONVERTED}step-*"), *root.glob(f"{_ASIDE}*step-*")]
    old = [before for before in _steps(root) if before <= step][:-keep]
    for path in [*(checkpoint_path(root, before) for before in old), *useless]:
        shutil.rmtree(path, ignore_errors=True)


def set_torn_aside(root: Path, step: int) -> None:
    """Rename what is torn after `step`, which a run goes on from (rank 0 only).

    It no longer counts among those that are kept, and goes with the next that is whole, like what a kill left. `latest`
    names the checkpoint of `step` then; at step 0 there is none.
    """
    torn = [checkpoint_path(root, later) for later in _steps(root) if later > step]
    if not torn:
        return
    if step:
        _point_latest(root, checkpoint_path(root, step))
    else:
        (root / "latest").unlink(missing_ok=True)
    for path in torn:
        shutil.rmtree(aside_path(path), ignore_errors=True)
        path.rename(aside_path(path))


def _digests_path(final: Path) -> Path:
    """Where ranks note the digests of what lies aside: not among it, and cleared like it after a kill."""
    return final.with_name(f"{_ASIDE}digests-{final.name}")


def _clear(final: Path) -> None:
    for path in (aside_path(final), _digests_path(final)):
        shutil.rmtree(path, ignore_errors=True)


def _point_latest(root: Path, final: Path) -> None:
    with room_for(final):
        _write_synced(root / f"{_ASIDE}latest", final.name + "\n")
    os.replace(root / f"{_ASIDE}latest", root / "latest")
    _sync(root)


@contextmanager
def room_for(final: Path) -> Iterator[None]:
    """Turns a full disk into OutOfSpace, and removes what was written aside; checkpoints before stay as they are."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        _clear(final)
        raise OutOfSpace(
            f"no space for checkpoint {final} ({error.strerror}); those before it are intact. Free space, or lower "
            "training.checkpoint.keep, and start again: the run goes on from the last one"
        ) from error


def latest_checkpoint(root: Path, note: Note) -> int:
    """The step of the newest complete checkpoint, 0 if there is none. Torn ones are passed over, and `note`d."""
    for step in reversed(_steps(root)):
        problem = check_checkpoint(checkpoint_path(root, step))
        if problem is None:
            return step
        note(f"checkpoint {checkpoint_path(root, step)} is not complete ({problem}); trying the one before")
    return 0


def read_record(directory: Path) -> dict[str, Any]:
    """What `publish` noted of a complete checkpoint."""
    return json.loads((directory / _COMPLETE).read_text())


def require_files(directory: Path) -> None:
    """CheckpointError unless this process can open every file of a complete checkpoint, and at its size.

    For each rank before all of them load: DeepSpeed's load has collectives, which a rank without its file never joins.
    """
    for name, entry in read_record(directory)["files"].items():
        path = directory / name
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno()).st_size
        except OSError as error:
            raise CheckpointError(f"{path} of a complete checkpoint cannot be opened here: {error}{_HERE}") from error
        if found != entry["bytes"]:
            raise CheckpointError(f"{path} has {found} bytes here, and {entry['bytes']} in {_COMPLETE}{_HERE}")


def check_checkpoint(directory: Path) -> str | None:
    """What is wrong with a checkpoint, file by file against its digests; None if nothing is."""
    try:
        record = read_record(directory)
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


def _has_size(path: Path, described: dict[str, int | str] | None) -> bool:
    return described is not None and described["bytes"] == path.stat().st_size


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
