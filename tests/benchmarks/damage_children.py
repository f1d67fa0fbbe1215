"""Damage a copy of a store, read and verify it, in child processes, so that a signal is seen as what it is."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kdcore.errors import KDError
from kdcore.identity import new_hash
from kdcore.store import LabelStore, open_store, verify_store

__all__ = ["Bench", "Damage", "Files", "Found", "Look", "look", "look_once", "look_while_open", "read_all"]

_TRIES_A_CHILD = 2000
Files = Mapping[str, bytes | Path | None]
"""New content of files by their name in the store; a path is a symbolic link to it, None removes."""


@dataclass(frozen=True)
class Damage:
    """One try: what is done, in words, and the files that it changes (made when its turn comes)."""

    what: str
    files: Callable[[], Files]


@dataclass(frozen=True)
class Found:
    """What came of one try.

    `reading` is 'refused' (a KDError), 'unnamed ...' (another exception), or the digest of everything that was read;
    `verification` is 'reported', 'ok', 'unnamed ...', or '' where it was not asked; `signal` killed the child, if any.
    """

    reading: str = ""
    verification: str = ""
    signal: int = 0


def read_all(store: LabelStore) -> str:
    """Digest of all that a store says of its rows, every label decoded."""
    state = new_hash()
    rows = list(range(store.num_rows))
    counts = store.num_labels_per_row().tolist()
    for values in (store.keys().tolist(), store.occurrences(), store.targets(), counts):
        state.update(repr(list(values)).encode())
    labels = store.labels_of(rows, [0] * len(rows), counts)
    for value in vars(labels).values():
        state.update(np.ascontiguousarray(value).tobytes() if hasattr(value, "numpy") else repr(value).encode())
    for row in rows:
        state.update(store.name(row).encode())
        if store.kind == "text":
            state.update(store.tokens(row).tobytes() + store.token_log_probs(row).tobytes())
    return f"{len(rows)} rows {state.hexdigest()}"


def _said(action: Callable[[], str], refused: str) -> str:
    try:
        return action()
    except KDError:
        return refused
    except Exception as error:  # noqa: BLE001 - an error that says nothing to a user is a finding
        return f"unnamed {type(error).__name__}: {error}"[:200]


def _verify(store: Path) -> str:
    return "ok" if verify_store(store, full=True, threads=1).ok else "reported"


Look = Callable[[Path, Files], Found]


def look(store: Path, files: Files) -> Found:
    """Open the damaged store and read all of it; and verify it in full."""
    reading = look_once(store, files).reading
    return Found(reading, _said(lambda: _verify(store), "reported"))


def look_once(store: Path, files: Files) -> Found:
    """Open the damaged store and read all of it; verify it only when that was possible."""
    for name, content in files.items():
        _put(store / name, content)
    reading = _said(lambda: read_all(open_store(store)), "refused")
    return Found(reading, "" if reading == "refused" else _said(lambda: _verify(store), "reported"))


def look_while_open(store: Path, files: Files) -> Found:
    """Open the whole store and read it; damage it in place, under the open maps; read again."""
    opened = open_store(store)
    read_all(opened)
    for name, content in files.items():
        assert isinstance(content, bytes)
        with open(store / name, "r+b") as file:
            file.write(content)
            file.truncate()
    return Found(_said(lambda: read_all(opened), "refused"))


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)


def _put(path: Path, content: bytes | Path | None) -> None:
    _remove(path)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        path.symlink_to(content)


class Bench:
    """A whole store, and the copy of it that is damaged again and again."""

    def __init__(self, whole: Path, copy: Path) -> None:
        self.whole, self.copy = whole, copy
        shutil.copytree(whole, copy)
        self.reference = read_all(open_store(whole))

    def run(self, damages: Sequence[Damage], how: Look = look) -> list[Found]:
        """What came of each damage, in order."""
        found: list[Found] = []
        while len(found) < len(damages):
            batch = damages[len(found) : len(found) + _TRIES_A_CHILD]
            answers, signal = self._in_child(batch, how)
            found += answers
            if len(answers) < len(batch):
                assert signal, "a child ended early without a signal"
                found.append(Found(signal=signal))
                _remove(self.copy)
                shutil.copytree(self.whole, self.copy)
        return found

    def _in_child(self, batch: Sequence[Damage], how: Look) -> tuple[list[Found], int]:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(reader)
                with os.fdopen(writer, "w") as out:
                    for answer in self._answers(batch, how):
                        print(json.dumps(asdict(answer)), file=out, flush=True)
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader) as lines:
            answers = [Found(**json.loads(line)) for line in lines if line.endswith("\n")]
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status <= 0, "a child failed in the benchmark itself"
        return answers, -status

    def _answers(self, batch: Sequence[Damage], how: Look) -> Iterator[Found]:
        for damage in batch:
            files = damage.files()
            yield how(self.copy, files)
            for name in files:
                self._restore(name)

    def _restore(self, name: str) -> None:
        _remove(self.copy / name)
        if (self.whole / name).is_dir():
            shutil.copytree(self.whole / name, self.copy / name)
        elif (self.whole / name).exists():
            shutil.copy2(self.whole / name, self.copy / name)
