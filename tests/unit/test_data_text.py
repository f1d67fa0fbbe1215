import hashlib
import json
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config.data import PythonStdlibData, TextData
from kdcore.data.sources import open_source
from kdcore.errors import DataError, UnreadableDocument


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())


def texts(source, split="train"):
    return {ref.name: source.read(ref).text for ref in source.list(split)}


def test_names_and_split_do_not_depend_on_the_folder(tmp_path):
    found = []
    for folder in (tmp_path / "one", tmp_path / "two" / "three"):
        write(folder, **{f"sub__{n}_dot_txt": f"text {n}\r\n" for n in range(60)})
        source = open_source(TextData(path=f"{folder}/**/*.txt", heldout_fraction=0.3))
        found.append((texts(source), texts(source, "heldout")))
    assert found[0] == found[1]
    train, heldout = found[0]
    assert not train.keys() & heldout.keys()
    assert len(train) + len(heldout) == 60
    assert train | heldout == {f"sub/{n}.txt": f"text {n}\r\n" for n in range(60)}
    for name in train | heldout:
        out = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10_000 < 3_000
        assert (name in heldout) == out


def test_json_lines(tmp_path):
    rows = [{"body": f"document {n}\n"} for n in range(20)]
    lines = [json.dumps(row) for row in rows]
    write(tmp_path, a_dot_jsonl="\n".join([*lines[:10], "", "   " + lines[10] + "  ", *lines[11:]]))
    source = open_source(TextData(path=str(tmp_path / "a.jsonl"), field="body", heldout_fraction=0))
    assert list(texts(source).values()) == [row["body"] for row in rows]


@pytest.mark.parametrize(
    "line", ["{broken", '{"other": "x"}', "[1]", '{"text": 3}', r'{"text": "\ud800"}', b'{"text": "\xff"}']
)
def test_a_bad_line_is_named(tmp_path, line):
    line = line if isinstance(line, bytes) else line.encode()
    write(tmp_path, a_dot_jsonl=b'{"text": "good"}\n' + line + b'\n{"text": "last"}')
    source = open_source(TextData(path=str(tmp_path / "*.jsonl"), heldout_fraction=0))
    refs = source.list("train")
    assert source.read(refs[2]).text == "last"
    with pytest.raises(UnreadableDocument, match=r"a\.jsonl@000000000017.*the line at byte 17.*on_unreadable"):
        source.read(refs[1])


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(st.sampled_from(['{"text": "a"}', ' {"text": "bb"} ', "", "  "]), max_size=12),
    end=st.sampled_from(["\n", "\r\n"]),
    extent_bytes=st.integers(1, 40),
)
def test_lines_are_the_same_however_the_file_is_cut(tmp_path_factory, lines, end, extent_bytes):
    path = tmp_path_factory.getbasetemp() / "cut.jsonl"
    path.write_bytes((end.join(lines) + end).encode())
    source = open_source(TextData(path=str(path), heldout_fraction=0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcore.data.formats.base.EXTENT_BYTES", extent_bytes)
        extents = list(source.extents("train"))
        refs = [ref for extent in extents for ref in source.refs(extent, "train")]
    assert len(extents) == -(-path.stat().st_size // extent_bytes)
    assert [source.read(ref).text for ref in refs] == [json.loads(line)["text"] for line in lines if line.strip()]
    assert refs == sorted(refs)


def test_undecodable_file_is_named(tmp_path):
    write(tmp_path, bad_dot_txt=b"\xff\xfe\xff")
    source = open_source(TextData(path=str(tmp_path / "*.txt"), heldout_fraction=0))
    with pytest.raises(UnreadableDocument, match=r"bad\.txt"):
        source.read(source.list("train")[0])


def test_missing_corpus_names_the_pattern(tmp_path):
    with pytest.raises(DataError, match=r"nothing.*\*\.txt"):
        open_source(TextData(path=str(tmp_path / "nothing" / "*.txt"))).list("train")
    with pytest.raises(DataError, match="is a folder"):
        open_source(TextData(path=str(tmp_path))).list("train")
    write(tmp_path, only_dot_txt="x")
    with pytest.raises(DataError, match="heldout split"):
        open_source(TextData(path=str(tmp_path / "*.txt"), heldout_fraction=0)).list("heldout")


def test_explicit_heldout_files_leave_the_training_split(tmp_path):
    write(tmp_path, a_dot_txt="a", b_dot_txt="b", c_dot_txt="c")
    source = open_source(TextData(path=str(tmp_path / "*.txt"), heldout=str(tmp_path / "b.txt")))
    assert texts(source) == {"a.txt": "a", "c.txt": "c"}
    assert texts(source, "heldout") == {"b.txt": "b"}


def test_limit_is_deterministic_and_not_the_first(tmp_path):
    write(tmp_path, **{f"{n:03d}_dot_txt": str(n) for n in range(50)})
    source = open_source(TextData(path=str(tmp_path / "*.txt"), heldout_fraction=0, max_samples=10))
    names = list(texts(source))
    assert len(names) == 10
    assert names == sorted(names)
    assert names != [f"{n:03d}.txt" for n in range(10)]
    assert names == list(texts(source))


def test_two_folders_with_equal_file_names_stay_apart(tmp_path):
    write(tmp_path, one__a_dot_txt="1", two__a_dot_txt="2")
    source = open_source(TextData(path=(f"{tmp_path}/one/*.txt", f"{tmp_path}/two/a.txt"), heldout_fraction=0))
    assert texts(source) == {"one/a.txt": "1", "two/a.txt": "2"}


def test_stdlib_leaves_out_tests_and_empty_modules():
    source = open_source(PythonStdlibData())
    train, heldout = source.list("train"), source.list("heldout")
    names = {ref.name for ref in train} | {ref.name for ref in heldout}
    assert len(names) == len(train) + len(heldout)
    assert {"os.py", "json/decoder.py"} <= names
    assert not any({"test", "tests", "site-packages", "idlelib"} & set(Path(name).parts) for name in names)
    assert all(ref.num_bytes > 0 for ref in train)
    sample = source.read(next(ref for ref in train + heldout if ref.name == "os.py"))
    assert sample.text == Path(sysconfig.get_path("stdlib"), "os.py").read_bytes().decode()
