"""The doctor's question to a worker: can it write where the labels go?"""

import shutil
from pathlib import Path

import pytest

from cluster.nodes import _gpu_finding, _node, _try_storage


def test_a_writable_place_is_left_as_it_was(tmp_path: Path) -> None:
    problem, free = _try_storage(str(tmp_path / "new" / "labels"))
    assert problem == ""
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)
    assert not (tmp_path / "new" / "labels").exists()
    assert _try_storage(str(tmp_path))[0] == ""
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_place_that_cannot_be_written_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert "file" in _try_storage(str(tmp_path / "file" / "labels"))[0]
    assert "StoreError" in _try_storage("s3://key:secret@bucket/labels")[0]


def test_a_node_with_other_versions_is_named() -> None:
    here = {"python": "3.11.7", "ray": "2.60.0"}
    assert _node("abcdef0123", here, here)[2] == ""
    assert "ray 2.55.0 (here 2.60.0)" in _node("abcdef0123", {**here, "ray": "2.55.0"}, here)[2]
    assert "dependencies" in _node("abcdef0123", "RayTaskError: ModuleNotFoundError", here)[2]


def test_a_teacher_larger_than_a_gpu_is_named() -> None:
    assert _gpu_finding("abcdef0123", (10 * 10**9, [13 * 10**9, 80 * 10**9]), 1)[2] == ""
    assert "smaller teacher" in _gpu_finding("abcdef0123", (10 * 10**9, [80 * 10**9, 11 * 10**9]), 1)[2]
    assert _gpu_finding("abcdef0123", (20 * 10**9, [13 * 10**9]), 2)[1:] == (
        "needs 12.0 GB each, smallest GPU 13.0 GB",
        "",
    )
    assert "not compared" in _gpu_finding("abcdef0123", (0, []), 1)[1]
