"""Identical samples of several classes: refused, or counted and told."""

import json
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdcore.config.data import ClassifiedTextData, ImageFolderData
from kdcore.data.document import ClassifiedText
from kdcore.data.sources import open_source
from kdcore.errors import DataError
from kdcore.planning import Asked, Corpus, Planning, find_input, make_plan, measure, plan_units
from kdcore.training.classified_samples import classified_text_samples
from kdcore.training.image_samples import image_samples
from tests.support.classified_runs import classified_recipe
from tests.support.planning import Memory, by_workers


@pytest.fixture(autouse=True)
def no_sync(monkeypatch):
    """Nothing here is about power cuts."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class _Classified(Memory):
    """Texts such as "a1": the letter is the text, the digit its class; "a-" has none."""

    kind = "classified_text"

    def read(self, ref):
        text = self.texts[ref.name]
        return ClassifiedText(ref.name, text[0], None, None if text[1] == "-" else int(text[1]))


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from("01-")).map("".join), min_size=1, max_size=12)
)
def test_conflicts_are_counted_over_all_blocks_and_parts(texts, tmp_path_factory):
    source, folder = _Classified(texts), tmp_path_factory.mktemp("plan")
    classes = {letter: {text[1] for text in texts if text[0] == letter} for letter in {text[0] for text in texts}}
    expected = sum(len(found) > 1 for found in classes.values())
    wanted = Asked(Corpus(lambda: source, "", "train", "error", 3, "first"), 3, 2)
    planning = Planning(folder, by_workers(2), part_samples=4)
    assert make_plan(wanted, measure(wanted.corpus), planning).input.num_conflicts == expected
    assert find_input(folder, wanted).num_conflicts == expected
    if expected:
        with pytest.raises(DataError, match=rf"class, since .*: {expected} of {len(classes)} distinct samples"):
            plan_units(source, "train", 3, block_bytes=3)
    else:
        plan_units(source, "train", 3, block_bytes=3)


def test_two_of_them_are_named_with_their_classes():
    with pytest.raises(DataError, match=r"'0001' of class 1 and '0003' of class 0\..*data\.on_conflict: first"):
        plan_units(_Classified(["a0", "b1", "b1", "b0", "b1"]), "train", 100)
    with pytest.raises(DataError, match="'0000' without a class and '0001' of class 0"):
        plan_units(_Classified(["a-", "a0"]), "train", 100, block_bytes=1)


def _twice(recipe, **data):
    return recipe.model_copy(update={"data": ClassifiedTextData.model_validate({**recipe.data.model_dump(), **data})})


def test_a_student_is_told_whose_class_counts(tmp_path):
    rows = [{"text": "good", "label": 1}, {"text": "bad", "label": 0}, {"text": "good", "label": 0}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = _twice(classified_recipe(tmp_path / "run"), path=str(tmp_path / "rows.jsonl"), heldout_fraction=0.0)
    with pytest.raises(DataError, match="1 of 2 distinct samples have several"):
        classified_text_samples(recipe, open_source(recipe.data), None, 8, False)
    first = _twice(recipe, on_conflict="first")
    samples = classified_text_samples(first, open_source(first.data), None, 8, False)
    assert "1 of 2 distinct samples occur with several classes" in samples.notes[0]
    assert samples._targets(np.array([0, 1])).tolist() == [1, 0]
    assert len(samples) == 3


def test_pictures_too(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (4, 4), (9, 9, 9)).save(tmp_path / name / "same.png")
        Image.new("RGB", (4, 4), (len(name), ord(name[0]), 1)).save(tmp_path / name / "own.png")
    recipe = classified_recipe(tmp_path / "run")
    data = ImageFolderData(path=str(tmp_path), size=4, heldout_fraction=0.0)
    with pytest.raises(DataError, match=r"1 of 3 .*'cats/same.png' of class 0 and 'dogs/same.png' of class 1"):
        image_samples(recipe.model_copy(update={"data": data}), open_source(data), False)
    first = data.model_copy(update={"on_conflict": "first"})
    assert image_samples(recipe.model_copy(update={"data": first}), open_source(first), False).notes
