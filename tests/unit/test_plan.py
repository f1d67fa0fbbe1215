import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.data import DigitsData, TextData
from kdcore.data.document import SampleRef, TextDocument
from kdcore.data.plan import plan_units
from kdcore.data.sources import open_source
from kdcore.errors import DataError, UnreadableDocument
from kdcore.identity import sample_key_text


class Memory:
    """A source over texts in memory; None is an unreadable document."""

    kind = "text"
    num_classes = None
    num_channels = None
    max_samples = None

    def __init__(self, texts, prefix=""):
        self.texts = {f"{prefix}{n:04d}": text for n, text in enumerate(texts)}

    def list(self, split):
        return [SampleRef(name, "memory", 0, len(text or "?")) for name, text in self.texts.items()]

    def read(self, ref):
        text = self.texts[ref.name]
        if text is None:
            raise UnreadableDocument(f"{ref.name} is broken")
        return TextDocument(ref.name, text)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.text("ab", min_size=1, max_size=6), min_size=1, max_size=40), unit_bytes=st.integers(1, 20))
def test_each_key_once_and_units_within_their_size(texts, unit_bytes):
    plan = plan_units(Memory(texts), "train", unit_bytes)
    samples = [sample for unit in plan.units for sample in unit.samples]
    assert {key: times for _, key, times in samples} == {sample_key_text(t): texts.count(t) for t in texts}
    assert plan.num_keys == len(samples) == len(set(texts))
    assert plan.num_samples == len(texts)
    assert [unit.id for unit in plan.units] == [f"unit-{n:06d}" for n in range(len(plan.units))]
    for unit in plan.units:
        assert unit.num_bytes == sum(ref.num_bytes for ref, _, _ in unit.samples)
        assert unit.num_bytes <= unit_bytes or len(unit.samples) == 1
    for unit, following in zip(plan.units, plan.units[1:], strict=False):
        assert unit.num_bytes + following.samples[0][0].num_bytes > unit_bytes  # no unit is closed early


def test_input_digest_is_of_content_alone():
    digest = plan_units(Memory(["a", "b", "c"]), "train", 100).input_digest
    assert plan_units(Memory(["a", "b", "c"], prefix="other-"), "train", 100).input_digest == digest
    assert plan_units(Memory(["c", "a", "b"]), "train", 1).input_digest == digest
    others = [["a", "b"], ["a", "b", "d"], ["a", "b", "c", "c"]]
    assert len({digest, *(plan_units(Memory(texts), "train", 100).input_digest for texts in others)}) == 4


def test_unit_digest_follows_the_content_of_the_unit():
    first = plan_units(Memory(["aa", "bb", "cc"]), "train", 4)
    second = plan_units(Memory(["aa", "bb", "dd"]), "train", 4)
    assert first.units[0].digest == second.units[0].digest
    assert first.units[1].digest != second.units[1].digest


def test_unreadable_and_empty_documents():
    source = Memory(["good", None, "", "fine"])
    with pytest.raises(UnreadableDocument, match="0001"):
        plan_units(source, "train", 100)
    plan = plan_units(source, "train", 100, "skip")
    assert plan.skipped == (("0001", "0001 is broken"), ("0002", "empty"))
    assert plan.num_samples == 2
    with pytest.raises(DataError, match="0000"):
        plan_units(Memory([None, ""]), "train", 100, "skip")


def test_real_sources_plan_twice_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("same")
    (tmp_path / "b.txt").write_text("same")
    config = TextData(path=str(tmp_path / "*.txt"), heldout_fraction=0)
    plan = plan_units(open_source(config), "train", 100)
    assert plan == plan_units(open_source(config), "train", 100)
    ((ref, _, times),) = plan.units[0].samples
    assert (ref.name, times) == ("a.txt", 2)
    images = plan_units(open_source(DigitsData(max_samples=20)), "train", 640)
    assert (len(images.units), images.num_keys) == (2, 20)
