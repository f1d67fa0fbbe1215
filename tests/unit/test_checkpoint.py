import json
from pathlib import Path

import pytest

from kdcore.errors import CheckpointError
from kdcore.training import checkpoint
from kdcore.training.checkpoint import (
    begin,
    check_checkpoint,
    checkpoint_path,
    digest_share,
    finish_checkpoint,
    latest_checkpoint,
    require_files,
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


@pytest.mark.parametrize("late", ["", "numbers"])  # the file that ranks do not see yet
def test_each_rank_digests_its_share_and_the_first_what_none_of_them_saw(tmp_path: Path, monkeypatch, late):
    read: list[str] = []
    inner = checkpoint.digest_file
    monkeypatch.setattr(checkpoint, "digest_file", lambda path: (read.append(path.name), inner(path))[1])
    final = checkpoint_path(tmp_path, 4)
    aside = begin(final)
    sizes = {"weights": 900, "numbers": 500, "more": 400, "few": 10}
    for name, size in sizes.items():
        if name != late:
            (aside / name).write_bytes(name.encode() * size)
    shares = []
    for rank in range(2):
        digest_share(final, rank, 2)
        shares.append(set(read))
        read.clear()
    assert shares[0] | shares[1] == set(sizes) - {late}
    assert shares[0]
    assert shares[1]
    assert not shares[0] & shares[1]
    if late:
        (aside / late).write_bytes(b"12345")
    finish_checkpoint(tmp_path, 4, 2, {})
    assert read == [late] * bool(late)
    assert check_checkpoint(final) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000004"]


def test_a_file_that_has_grown_since_a_rank_digested_it_is_digested_again(tmp_path: Path):
    final = checkpoint_path(tmp_path, 4)
    path = begin(final) / "numbers"
    path.write_bytes(b"the first")
    digest_share(final, 0, 1)
    path.write_bytes(b"the first and the rest")
    finish_checkpoint(tmp_path, 4, 2, {})
    assert check_checkpoint(final) is None


def test_a_rank_without_the_directory_leaves_its_share_to_the_first(tmp_path: Path):
    final = checkpoint_path(tmp_path / "here", 4)
    digest_share(checkpoint_path(tmp_path / "elsewhere", 4), 1, 2)
    aside = begin(final)
    for name in ("numbers", "weights"):
        (aside / name).write_bytes(name.encode())
    digest_share(final, 0, 2)
    finish_checkpoint(tmp_path / "here", 4, 2, {})
    assert check_checkpoint(final) is None
    assert not (tmp_path / "elsewhere").exists()


def test_digests_that_cannot_be_cleared_are_not_taken_for_new_ones(tmp_path: Path, monkeypatch):
    final = checkpoint_path(tmp_path, 4)
    (begin(final) / "numbers").write_bytes(b"killed")
    inner = checkpoint.shutil.rmtree
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda path, **_: None if "digests" in path.name else inner(path))
    with pytest.raises(FileExistsError):
        begin(final)


def test_digests_that_a_kill_left_are_not_those_of_the_next(tmp_path: Path):
    final = checkpoint_path(tmp_path, 4)
    (begin(final) / "numbers").write_bytes(b"killed")
    digest_share(final, 0, 1)
    assert check_checkpoint(save(tmp_path, 4)) is None
    (begin(checkpoint_path(tmp_path, 6)) / "numbers").write_bytes(b"killed")
    digest_share(checkpoint_path(tmp_path, 6), 0, 1)
    save(tmp_path, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000004", "step-00000008"]


@pytest.mark.parametrize("damage", [truncate, remove])
def test_a_rank_that_does_not_see_all_files_says_so_before_it_loads(tmp_path: Path, damage):
    directory = save(tmp_path, 2)
    require_files(directory)
    damage(directory)
    with pytest.raises(CheckpointError, match=r"(numbers|weights) .*share"):
        require_files(directory)
