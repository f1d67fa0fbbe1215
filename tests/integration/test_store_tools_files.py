"""`kd store info`, `plot`, `sample` and `export`: a store of every codec, looked at and written as plain columns."""

import json
import math
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from kdcore.errors import LabelError, StoreError
from kdcore.labels import DenseLabels, SparseLabels, TopKLabels
from kdcore.store import ExportSettings, export_store, open_store, ranked
from tests.support.store_tools import CLASSES, DISTRIBUTIONS, NAMES, kd, logits_of, make_codec_store, memory_url

TEXTS = {"alpha": 1, "beta beta": 2, "d": 1, "gamma!": 1}
TOKENIZER = "models/stdlib-lm-4m"


def by_hand(store, row, label, top):
    """(class, weight) of a label, falling; from the labels in memory, one entry at a time."""
    labels = store.labels(row, label, label + 1)
    if isinstance(labels, SparseLabels):
        pairs = list(zip(labels.ids.tolist(), labels.weights.tolist(), strict=True))
    elif isinstance(labels, TopKLabels):
        pairs = list(zip(labels.ids[0].tolist(), labels.log_probs[0].exp().tolist(), strict=True))
    else:
        assert isinstance(labels, DenseLabels)
        pairs = list(enumerate(labels.log_probs[0].exp().tolist()))
    pairs = [(index, weight) for index, weight in pairs if weight > 0]
    return sorted(pairs, key=lambda pair: -pair[1])[:top]


def close(found, wanted):
    """Equal weights may change places."""
    assert len(found) == len(wanted)
    np.testing.assert_allclose([weight for _, weight in found], [weight for _, weight in wanted], rtol=1e-5)
    if len({round(weight, 6) for _, weight in wanted}) == len(wanted):
        assert [index for index, _ in found] == [index for index, _ in wanted]


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_export_has_the_top_classes_of_every_label(tmp_path, name, kind):
    path = make_codec_store(tmp_path / "s", name, [TEXTS], kind)
    code, output = kd("export", path, tmp_path / "x.parquet", "--top", 5)
    assert code == 0, output
    table = pq.read_table(tmp_path / "x.parquet")
    assert str(table.schema.field("target_logprobs").type) == "list<element: list<element: float>>"
    store = open_store(path)
    for row, line in enumerate(table.to_pylist()):
        assert line["key"] == store.key(row).hex()
        assert line["name"] == store.name(row)
        assert line["occurrences"] == TEXTS[line["name"]]
        if kind == "text":
            assert line["input_ids"] == store.tokens(row).tolist()
        else:
            assert line["target"] == 3
        labels = zip(line["target_token_ids"], line["target_logprobs"], line["target_mask"], strict=True)
        count = 0
        for label, (ids, log_probs, mask) in enumerate(labels):
            assert len(ids) == len(log_probs) == len(mask) == 5
            known = sum(mask)
            assert mask == [1] * known + [0] * (5 - known)
            assert ids[known:] == [0] * (5 - known)
            assert log_probs[known:] == [-1e9] * (5 - known)
            close(
                [(i, math.exp(p)) for i, p in zip(ids[:known], log_probs, strict=False)], by_hand(store, row, label, 5)
            )
            count += 1
        assert count == store.num_labels_per_row()[row]


def test_padding_makes_no_nan(tmp_path):
    path = make_codec_store(tmp_path / "s", "sampled", [TEXTS])
    export_store(open_store(path), str(tmp_path / "x.parquet"), ExportSettings(30))
    values = pq.read_table(tmp_path / "x.parquet").column("target_logprobs").to_pylist()
    found = torch.tensor(values[0])
    assert (found == -1e9).any()
    student = torch.zeros_like(found, requires_grad=True)
    loss = (found.exp() * (found - student.log_softmax(-1))).sum()
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(student.grad).all())


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_renormalised_entries_sum_to_one(tmp_path, name):
    path = make_codec_store(tmp_path / "s", name, [TEXTS])
    code, output = kd("export", path, tmp_path / "x.parquet", "--top", 2, "--renormalise")
    assert code == 0
    values = pq.read_table(tmp_path / "x.parquet").column("target_logprobs").to_pylist()
    sums = [sum(map(math.exp, label)) for row in values for label in row]
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
    assert "100.0%" not in output  # what is said of the mass is of the entries as they were


def test_files_that_look_like_an_exports_are_not_taken_for_it(tmp_path):
    path = make_codec_store(tmp_path / "s", "topk", [TEXTS])
    out = tmp_path / "out"
    out.mkdir()
    (out / "data_0.parquet").write_bytes(b"a person's own")
    code, output = kd("export", path, out, "--top", 3)
    assert code == 2
    assert "data_0.parquet" in output
    assert [file.name for file in out.iterdir()] == ["data_0.parquet"]


def test_an_export_of_several_files_continues_and_knows_its_own(tmp_path):
    path = make_codec_store(tmp_path / "s", "topk", [TEXTS])
    out = tmp_path / "out"
    assert kd("export", path, out, "--top", 3, "--rows", 2)[0] == 0
    files = sorted(out.glob("*.parquet"))
    assert [file.name for file in files] == ["data_0.parquet", "data_1.parquet"]
    whole = {file: file.read_bytes() for file in files}
    files[1].unlink()
    (out / ".data_1.parquet.partial").write_bytes(b"torn")  # what a kill leaves
    code, output = kd("export", path, out, "--top", 3, "--rows", 2)
    assert code == 0
    assert "1 files were there" in output
    assert {file: file.read_bytes() for file in files} == whole
    assert not list(out.glob(".*"))
    code, output = kd("export", path, out, "--top", 4, "--rows", 2)
    assert code == 2
    assert "export.json" in output
    other = make_codec_store(tmp_path / "t", "topk", [{"other": 1}])
    assert kd("export", other, out, "--top", 3, "--rows", 2)[0] == 2
    assert kd("export", path, tmp_path / "s")[0] == 2  # into a store
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("x")
    assert kd("export", path, tmp_path / "foreign")[0] == 2
    names = [row["name"] for file in files for row in pq.read_table(file).to_pylist()]
    assert names == list(TEXTS)


def test_an_export_is_never_written_over(tmp_path):
    path = make_codec_store(tmp_path / "s", "topk", [TEXTS])
    (tmp_path / "x.parquet").write_bytes(b"mine")
    code, output = kd("export", path, tmp_path / "x.parquet")
    assert code == 2
    assert "there already" in output
    assert (tmp_path / "x.parquet").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["feature16", "feature8"])
def test_features_are_not_exported(tmp_path, name):
    path = make_codec_store(tmp_path / "s", name, [TEXTS])
    code, output = kd("export", path, tmp_path / "x.parquet")
    assert code == 2
    assert "features" in output
    assert not (tmp_path / "x.parquet").exists()


def test_exports_to_urls_stream_row_groups(tmp_path, monkeypatch):
    url = memory_url(tmp_path, monkeypatch)
    monkeypatch.setattr("kdcore.store.export.export._GROUP_BYTES", 1)
    path = make_codec_store(f"{url}/s", "threshold", [TEXTS])
    assert kd("export", path, f"{url}/out", "--rows", 3)[0] == 0
    assert kd("export", path, f"{url}/x.parquet")[0] == 0
    assert kd("export", path, tmp_path / "x.parquet")[0] == 0
    assert pq.ParquetFile(tmp_path / "x.parquet").num_row_groups == 3  # a text without labels is no group
    import fsspec

    fs = fsspec.filesystem("memory")
    assert fs.cat_file(f"{url}/x.parquet") == (tmp_path / "x.parquet").read_bytes()
    assert len(fs.glob(f"{url}/out/data_*.parquet")) == 2


def test_dense_labels_are_exported_a_piece_at_a_time(tmp_path, monkeypatch):
    path = make_codec_store(tmp_path / "s", "dense16", [TEXTS])
    export_store(open_store(path), str(tmp_path / "whole.parquet"), ExportSettings(4))
    monkeypatch.setattr("kdcore.store.export.export._PIECE_ELEMENTS", 3 * CLASSES)
    export_store(open_store(path), str(tmp_path / "pieces.parquet"), ExportSettings(4))
    assert pq.read_table(tmp_path / "whole.parquet").equals(pq.read_table(tmp_path / "pieces.parquet"))


def test_ranks_of_labels_with_zeros():
    labels = TopKLabels(torch.tensor([[4, 2]]), torch.tensor([[-torch.inf, -0.1]]), torch.tensor([-2.35]), 9)
    found = ranked(labels, 3)
    assert found.ids.tolist() == [[2, 0, 0]]
    assert found.known.tolist() == [[True, False, False]]
    assert ranked(labels.index([]), 3).ids.shape == (0, 3)
    with pytest.raises(LabelError):
        ranked(labels, 0)
    with pytest.raises(StoreError):
        ExportSettings(0)


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("name", NAMES)
def test_samples_show_what_the_labels_say(tmp_path, name, kind):
    path = make_codec_store(tmp_path / "s", name, [TEXTS], kind)
    code, output = kd("sample", path, "--row", 1, "--start", 1, "--labels", 3, "--top", 4, "--json")
    assert code == 0, output
    value, store = json.loads(output), open_store(path)
    assert (value["row"], value["name"], value["key"]) == (1, "beta beta", store.key(1).hex())
    assert value["occurrences"] == 2
    positions = range(1, 4) if kind == "text" else []
    assert len(value["labels"]) == len(positions)
    for label, position in zip(value["labels"], positions, strict=True):
        tokens = store.tokens(1)
        assert (label["position"], label["token"], label["next"]) == (position, tokens[position], tokens[position + 1])
        assert label["teacher_log_prob"] == pytest.approx(float(store.token_log_probs(1)[position]))
        if name in DISTRIBUTIONS:
            shown = [(entry["id"], entry["weight"]) for entry in label["entries"]]
            close(shown, by_hand(store, 1, position, 4))
            assert label["other"] == pytest.approx(1 - sum(weight for _, weight in shown), abs=1e-5)
        else:
            layer = label["features"]["layers.1"]
            assert layer["first"] == pytest.approx(store.labels(1).layer("layers.1")[position].tolist())
    code, output = kd("sample", path, "--rows", 9)
    assert code == 0
    assert all(text in output for text in TEXTS)


def test_rows_are_found_by_key_or_refused(tmp_path):
    path = make_codec_store(tmp_path / "s", "topk", [TEXTS])
    key = open_store(path).key(3).hex()
    assert json.loads(kd("sample", path, "--key", key, "--json")[1])["name"] == "gamma!"
    for arguments in (("--key", "00" * 16), ("--key", "zz"), ("--row", 4), ("--row", 1, "--key", key)):
        assert kd("sample", path, *arguments)[0] == 2


def test_info_says_every_figure_with_its_meaning(tmp_path):
    path = make_codec_store(tmp_path / "s", "topk", [TEXTS])
    code, output = kd("info", path)
    assert code == 0
    for text in ("bytes.codes", "4.500", "classes that a label names", "bias", "0.1000", "statistics.nll", "made_up"):
        assert text in output, text
    assert "7.250" in output  # a figure that has no words yet is shown all the same
    bare = make_codec_store(tmp_path / "bare", "topk", [TEXTS], extra={})
    assert kd("info", bare)[0] == 0


def test_a_picture_needs_labels_no_more_than_matplotlib(tmp_path, monkeypatch):
    path = make_codec_store(tmp_path / "s", "threshold", [{"d": 1}])  # a text of one token: no label at all
    assert kd("plot", path, "--output", tmp_path / "p.png")[0] == 0
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, output = kd("plot", path, "--output", tmp_path / "q.png")
    assert code == 2
    assert "kdcore[report]" in output


def test_a_profile_is_bounded_and_spread(tmp_path, monkeypatch):
    from kdcore.evaluation.store_profile import profile_store

    path = make_codec_store(tmp_path / "s", "dense16", [{f"{'w' * 9}{n}": 1 for n in range(12)}])
    store = open_store(path)
    assert profile_store(store).labels == store.num_labels
    monkeypatch.setattr("kdcore.evaluation.store_profile._LABELS", 24)
    assert profile_store(store).labels == 24
    monkeypatch.setattr("kdcore.evaluation.store_profile._ROWS", 2)
    weights = profile_store(store).weights
    assert weights.shape == (18, CLASSES)
    logits = torch.cat([logits_of(f"{'w' * 9}{n}", 9, CLASSES) for n in (0, 6)])
    np.testing.assert_allclose(weights, logits.softmax(1).sort(descending=True).values.numpy(), atol=2e-3)
