"""Whether a store will fit is said before it is made."""

from pathlib import Path

import pytest

from cluster.labelling.disk_room import check_room, free_bytes, store_bytes
from kdcore.errors import OutOfSpace


def test_a_store_that_cannot_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(OutOfSpace, match=r"take about 2,001 bytes, '/labels' has 1,000 free"):
        check_room("/labels", 2001, 1000, print)


@pytest.mark.parametrize(
    ("needed", "free", "warned"), [(900, 1000, 0), (901, 1000, 1), (2000, 1000, 1), (10**15, None, 0)]
)
def test_a_store_that_may_not_fit_is_a_warning(needed: int, free: int | None, warned: int) -> None:
    notes: list[str] = []
    check_room("/labels", needed, free, notes.append)
    assert len(notes) == warned
    assert all("WARNING" in note for note in notes)


def test_what_is_free_is_asked_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert free_bytes(str(tmp_path / "not" / "yet")) is not None
    assert free_bytes("s3://bucket/labels") is None


def test_a_text_keeps_its_tokens_beside_its_labels() -> None:
    assert store_bytes(10.0, samples=2, labels=50) == 500 + 200
    assert store_bytes(10.0, samples=2, labels=50, tokens=60, vocabulary=1000) == 600 + 120 + 200
    assert store_bytes(10.0, samples=2, labels=50, tokens=60, vocabulary=100_000) == 600 + 240 + 200


def test_a_codec_of_unknown_size_is_not_judged() -> None:
    check_room("/labels", store_bytes(float("nan"), 1, 1), 0, print)
