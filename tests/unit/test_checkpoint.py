import json
from pathlib import Path

import pytest

from kdcore.training.checkpoint import (
    begin,
    check_checkpoint,
    checkpoint_path,
    finish_checkpoint,
    latest_checkpoint,
    set_torn_aside,
)


def save(root: Path, step: int, keep: int = 9) -> Path:
    aside = begin(checkpoint_path(root, step))
    (aside / "part").mkdir()
    (aside / "part" / "weights").write_bytes(bytes([step]) * 100)
    (aside / "numbers").write_bytes(b"12345")
    finish_checkpoint(root, step, keep, {"engine": "none"})
    return checkpoint_path(root, step)


def no_note(text: str) -> None:
    raise AssertionError(text)


def test_the_newest_complete_checkpoint_is_found_and_old_ones_are_dropped(tmp_path: Path):
    assert latest_checkpoint(tmp_path, no_note) == 0
    for step in (2, 4, 10):
        assert check_checkpoint(save(tmp_path, step, keep=2)) is None
    assert latest_checkpoint(tmp_path, no_note) == 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000004", "step-00000010"]
    assert (tmp_path / "latest").read_text() == "step-00000010\n"


def test_one_that_was_never_finished_is_not_there_and_does_not_hinder_the_next(tmp_path: Path):
    save(tmp_path, 2)
    aside = begin(checkpoint_path(tmp_path, 4))
    (aside / "numbers").write_bytes(b"torn")
    assert latest_checkpoint(tmp_path, no_note) == 2
    save(tmp_path, 6)
    assert check_checkpoint(checkpoint_path(tmp_path, 6)) is None
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["latest", "step-00000002", "step-00000006"]  # what the kill left is gone


def truncate(directory: Path) -> None:
    (directory / "part" / "weights").write_bytes(b"short")


def flip(directory: Path) -> None:
    (directory / "numbers").write_bytes(b"12344")


def remove(directory: Path) -> None:
    (directory / "numbers").unlink()


def add(directory: Path) -> None:
    (directory / "more").write_bytes(b"")


def forget(directory: Path) -> None:
    (directory / "complete.json").unlink()


def tear(directory: Path) -> None:
    path = directory / "complete.json"
    path.write_text(path.read_text()[:-20])


def empty(directory: Path) -> None:
    (directory / "complete.json").write_text(json.dumps({"step": 4}))


def link(directory: Path) -> None:
    target = directory.parent / "elsewhere"
    (directory / "numbers").rename(target)
    (directory / "numbers").symlink_to(target)


@pytest.mark.parametrize("damage", [truncate, flip, remove, add, forget, tear, empty, link])
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(tmp_path: Path, damage):
    save(tmp_path, 2)
    damage(save(tmp_path, 4))
    notes: list[str] = []
    assert latest_checkpoint(tmp_path, notes.append) == 2
    assert len(notes) == 1
    assert "step-00000004" in notes[0]
    save(tmp_path, 4)  # training goes on and writes it again
    assert latest_checkpoint(tmp_path, no_note) == 4


def test_torn_ones_do_not_count_among_those_that_are_kept(tmp_path: Path):
    save(tmp_path, 2)
    for step in (4, 6):
        truncate(save(tmp_path, step))
    set_torn_aside(tmp_path, latest_checkpoint(tmp_path, [].append))
    assert (tmp_path / "latest").read_text() == "step-00000002\n"
    assert latest_checkpoint(tmp_path, no_note) == 2
    save(tmp_path, 5, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000002", "step-00000005"]


def test_where_all_are_torn_latest_names_none(tmp_path: Path):
    truncate(save(tmp_path, 2))
    set_torn_aside(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".partial-step-00000002"]


def test_the_one_just_saved_is_never_among_those_dropped(tmp_path: Path):
    save(tmp_path, 4)
    save(tmp_path, 2, keep=1)
    assert check_checkpoint(tmp_path / (tmp_path / "latest").read_text().strip()) is None
    assert (tmp_path / "latest").read_text() == "step-00000002\n"
