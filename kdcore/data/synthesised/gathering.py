"""What is kept of a generation's samples: Parquet files that people read too, and a note that is written last."""

import glob
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kdcore.errors import StoreError, out_of_space
from kdcore.identity import canonical_json, digest_bytes, digest_file
from kdcore.runs import write_json

__all__ = ["Generation", "SampleFile", "distinct", "files_of", "read_generation", "write_generation", "write_samples"]

_FORMAT = 1


@dataclass(frozen=True)
class SampleFile:
    """One Parquet file of samples, by its name in the folder."""

    name: str
    rows: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class Generation:
    """A finished generation: `asked` is the digest of what was asked for, `made` how many samples were made.

    `identity` is what the units are of, `figures` what the samples are like, `notes` what a person should know of them.
    """

    number: int
    asked: str
    identity: Mapping[str, Any]
    made: int
    files: tuple[SampleFile, ...]
    figures: Mapping[str, Any]
    notes: tuple[str, ...]

    @property
    def kept(self) -> int:
        """Samples in the files."""
        return sum(file.rows for file in self.files)


def files_of(folder: str | Path, generations: int) -> tuple[str, ...]:
    """Patterns of the files of the first so many generations: a later one does not change what they match."""
    return tuple(f"{glob.escape(str(folder))}/generation-{number:03d}-*.parquet" for number in range(generations))


def write_samples(folder: Path, generation: int, unit: str, table: pa.Table) -> SampleFile:
    """Write the kept samples of a unit, whole or not at all. OutOfSpace when the disk is full."""
    name = f"generation-{generation:03d}-{unit}.parquet"
    path, aside = folder / name, folder / f".{name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, aside, compression="zstd")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise out_of_space(error, path, table.nbytes) from error
    return SampleFile(name, table.num_rows, path.stat().st_size, digest_file(path))


def write_generation(folder: Path, found: Generation) -> None:
    """The note of a finished generation; files of it that the note does not know are of a killed job, and removed.

    So are those that were still being written. OutOfSpace when the disk is full.
    """
    known = {file.name for file in found.files}
    files = f"generation-{found.number:03d}-*.parquet"
    for path in [*folder.glob(files), *folder.glob(f".{files}.*")]:
        if path.name not in known:
            path.unlink()
    value = {"format": _FORMAT, **json.loads(json.dumps(asdict(found), allow_nan=False))}
    value["digest"] = digest_bytes(canonical_json(value).encode())
    write_json(folder / f"generation-{found.number:03d}.json", value)


def read_generation(folder: str | Path, number: int) -> Generation | None:
    """A finished generation, None before it is. StoreError where note or files are not what was written."""
    path = Path(folder) / f"generation-{number:03d}.json"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _damaged(path, str(error)) from error
    digest = value.pop("digest", None) if isinstance(value, dict) else None
    if digest != digest_bytes(canonical_json(value).encode()) or value.pop("format") != _FORMAT:
        raise _damaged(path, "its digest does not fit")
    files = tuple(SampleFile(**file) for file in value["files"])
    for file in files:
        _check(Path(folder) / file.name, file)
    return Generation(**{**value, "files": files, "notes": tuple(value["notes"])})


def _check(path: Path, file: SampleFile) -> None:
    size = path.stat().st_size if path.exists() else None
    if size != file.bytes or digest_file(path) != file.digest:
        raise _damaged(path, "missing" if size is None else "its bytes are not those that were written")


def _damaged(path: Path, reason: str) -> StoreError:
    return StoreError(
        f"synthesised samples must be as they were written, '{path}' is not: {reason}. Restore it, or remove the "
        f"folder '{path.parent}' and run `kd synthesize` again: units that are made are not made again"
    )


def distinct(keys: Sequence[bytes]) -> list[int]:
    """The first position of each key."""
    first: dict[bytes, int] = {}
    for position, key in enumerate(keys):
        first.setdefault(key, position)
    return list(first.values())
