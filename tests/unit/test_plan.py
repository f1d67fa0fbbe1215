import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.data import DigitsData, TextData
from kdcore.data.sources import open_source
from kdcore.errors import DataError, UnreadableDocument
from kdcore.identity import sample_key_text
from kdcore.planning import plan_units
from tests.support.planning import Memory


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    """Nothing here is about power cuts."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=40), unit_bytes=st.integers(1, 20))
def test_each_key_once_and_units_within_their_size(texts, unit_bytes):
    plan, parts = plan_units(Memory(texts), "train", unit_bytes)
    samples = [sample for part in parts for sample in part]
    assert {key: times for _, key, times in samples} == {sample_key_text(t): texts.count(t) for t in texts}
    assert plan.input.num_keys == len(samples) == len(set(texts))
    assert plan.input.num_samples == len(texts)
    assert [unit.id for unit in plan.units] == [f"unit-{n:06d}" for n in range(len(plan.units))]
    for unit, part in zip(plan.units, parts, strict=True):
        assert unit.num_bytes == sum(ref.num_bytes for ref, _, _ in part)
        assert unit.num_bytes <= unit_bytes or len(part) == 1
    for unit, following in zip(plan.units, parts[1:], strict=False):
        assert unit.num_bytes + following[0][0].num_bytes > unit_bytes  # no unit is closed early


def _digest(source, unit_bytes):
    return plan_units(source, "train", unit_bytes)[0].input.digest


def test_input_digest_is_of_content_alone():
    digest = _digest(Memory(["a", "b", "c"]), 100)
    assert _digest(Memory(["a", "b", "c"], prefix="other-"), 100) == digest
    assert _digest(Memory(["c", "a", "b"]), 1) == digest
    others = [["a", "b"], ["a", "b", "d"], ["a", "b", "c", "c"]]
    assert len({digest, *(_digest(Memory(texts), 100) for texts in others)}) == 4


def test_unit_digest_follows_the_content_of_the_unit():
    first, _ = plan_units(Memory(["aa", "bb", "cc"]), "train", 4)
    second, _ = plan_units(Memory(["aa", "bb", "dd"]), "train", 4)
    assert first.units[0].digest == second.units[0].digest
    assert first.units[1].digest != second.units[1].digest


def test_unreadable_and_empty_documents():
    source = Memory(["good", None, "", "fine"])
    with pytest.raises(UnreadableDocument, match="0001"):
        plan_units(source, "train", 100)
    found = plan_units(source, "train", 100, "skip")[0].input
    assert found.skipped == (("0001", "0001 is broken"), ("0002", "empty"))
    assert (found.num_samples, found.num_skipped) == (2, 2)
    with pytest.raises(DataError, match="0000"):
        plan_units(Memory([None, ""]), "train", 100, "skip")


def test_real_sources_plan_twice_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("same")
    (tmp_path / "b.txt").write_text("same")
    config = TextData(path=str(tmp_path / "*.txt"), heldout_fraction=0)
    plan, samples = plan_units(open_source(config), "train", 100)
    again = plan_units(open_source(config), "train", 100)
    assert (plan.input, samples) == (again[0].input, again[1])
    ((ref, _, times),) = samples[0]
    assert (ref.name, times) == ("a.txt", 2)
    images, _ = plan_units(open_source(DigitsData(max_samples=20)), "train", 640)
    assert (len(images.units), images.input.num_keys) == (2, 20)
