"""Passages of the standard library, by the module that they are from."""

from collections import Counter

import pytest
from pydantic import ValidationError

from kdcore.config.data import StdlibPassagesData, kind_of
from kdcore.data import source_passages
from kdcore.data.sources import open_source
from kdcore.errors import DataError


def _source(**settings):
    return open_source(StdlibPassagesData.model_validate({"modules": ["argparse", "http"], **settings}))


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A standard library of a file and a package."""
    (tmp_path / "one.py").write_text("a\n\n  b\nc\nd\ne\n")
    for name, text in (("__init__.py", "x\ny\n"), ("inner/deep.py", "p\nq\nr\ns\n"), ("tests/test_it.py", "t\nt\n")):
        (tmp_path / "two" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "two" / name).write_text(text)
    monkeypatch.setattr(source_passages.sysconfig, "get_path", lambda name: str(tmp_path))
    return tmp_path


def _texts(source):
    return {(one.name, one.text, one.target) for one in map(source.read, source.list("train"))}


def test_passages_are_lines_without_what_is_around_them(library):
    found = _texts(_source(modules=["one", "two"], lines=2, heldout_fraction=0))
    assert found == {
        ("one.py:0000", "a\nb", 0),
        ("one.py:0001", "c\nd", 0),
        ("two/__init__.py:0000", "x\ny", 1),
        ("two/inner/deep.py:0000", "p\nq", 1),
        ("two/inner/deep.py:0001", "r\ns", 1),
    }


def test_what_stands_in_two_places_is_nobodys(library):
    (library / "two" / "copy.py").write_text("a\nb\nx\ny\n")
    texts = {text for _, text, _ in _texts(_source(modules=["one", "two"], lines=2, heldout_fraction=0))}
    assert texts == {"c\nd", "p\nq", "r\ns"}


def test_of_long_modules_a_few_are_kept_and_a_change_is_seen(library):
    few = _source(modules=["one", "two"], lines=1, per_module=2, heldout_fraction=0)
    assert Counter(target for _, _, target in _texts(few)) == {0: 2, 1: 2}
    (before,) = few.extents("train")
    (library / "one.py").write_text("other\nlines\nare here\n")
    (after,) = _source(modules=["one", "two"], lines=1, per_module=2, heldout_fraction=0).extents("train")
    assert few.stamp(before) != few.stamp(after)


def test_real_modules_are_split_without_a_text_in_both_parts():
    source = _source(per_module=40)
    parts = [{source.read(ref).text for ref in source.list(split)} for split in ("train", "heldout")]
    assert sum(map(len, parts)) == 80
    assert not parts[0] & parts[1]
    assert source.num_classes == 2
    assert kind_of(StdlibPassagesData()) == "classified_text"


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(DataError, match=r"data\.modules must name modules.*'nonesuch' is none"):
        _source(modules=["argparse", "nonesuch"]).list("train")
    with pytest.raises(ValidationError, match="twice"):
        StdlibPassagesData(modules=("http", "http"))


def test_a_module_without_a_passage_is_no_class(library):
    with pytest.raises(DataError, match=r"'one' has no passage of 6 lines.*data\.lines lower"):
        _source(modules=["one", "two"], lines=6).list("train")
