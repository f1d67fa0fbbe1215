"""DistillKit's Parquet in and out, against an encoder written from the layout alone: bits as text, struct, lstsq.

The layout and this decoder were compared by hand with arcee-ai/DistillKit at a61c2e7, which is not here.
"""

import itertools
import math
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from kdcore.errors import StoreError
from kdcore.identity import digest_samples, sample_key_tokens
from kdcore.store import import_distillkit, load_manifest, open_store, verify_store
from kdcore.store.distillkit.columns import decode_log_probs, pack_bits, parse_config, unpack_bits
from tests.support.store_tools import DISTRIBUTIONS, kd, make_codec_store, memory_url, rows_of

CLASSES = 300
PLAIN = {"d": CLASSES, "k": 24, "exact_k": 24, "residual_bins": [], "delta_encoding": False}
CURVE = {**PLAIN, "exact_k": 6, "exact_dtype": "bfloat16", "polynomial_terms": [0, 1, 2, "sqrt"]}
BINS = [
    {"scale_dtype": "float16", "element_bits": 8, "num_elements": 9},
    {"scale_dtype": "float32", "element_bits": 3, "num_elements": 5},
    {"scale_dtype": "bfloat16", "element_bits": 1, "num_elements": 2},
]
CONFIGS = {
    "exact": PLAIN,
    "curve": CURVE,
    "deltas": {**CURVE, "exact_dtype": "float32", "delta_encoding": True},
    "default_deltas": {key: value for key, value in {**CURVE, "exact_dtype": "float32"}.items() if key[:5] != "delta"},
    "bins": {**CURVE, "exact_dtype": "float32", "residual_bins": BINS},
    "only_bins": {**PLAIN, "exact_k": 8, "exact_dtype": "float16", "residual_bins": BINS},
    "unit_t": {**CURVE, "polynomial_terms": [0, 1, "exp"], "normalize_t": True, "term_dtype": "float64"},
    "half_terms": {**CURVE, "polynomial_terms": [0, 1], "term_dtype": "float16"},
    "nothing_exact": {**CURVE, "exact_k": 0},
}


def number_bytes(value, dtype):
    """One number as its bytes, and as it reads back."""
    if dtype == "bfloat16":
        rounded = torch.tensor(value).bfloat16().float().item()
        return struct.pack("<f", rounded)[2:], rounded
    data = struct.pack({"float16": "<e", "float32": "<f", "float64": "<d"}[dtype], value)
    return data, struct.unpack({"float16": "<e", "float32": "<f", "float64": "<d"}[dtype], data)[0]


def bit_bytes(numbers, bits):
    text = "".join(format(number, f"0{bits}b") for number in numbers)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[place : place + 8], 2) for place in range(0, len(text), 8))


def encode(config, log_probs):
    """One label's record, and what it says; from the description in kdcore/store/distillkit/columns.py."""
    config = {**parse_config(config, "x").__dict__, "residual_bins": config["residual_bins"]}
    values = [float(value) for value in log_probs]
    if config["delta_encoding"]:
        values = [values[0], *(right - left for left, right in itertools.pairwise(values))]
    record, read = b"", []
    for value in values[: config["exact_k"]]:
        data, back = number_bytes(value, config["exact_dtype"])
        record, read = record + data, [*read, back]
    rest = values[config["exact_k"] :]
    fitted = [0.0] * len(rest)
    if config["polynomial_terms"] and rest:
        points = [t / max(1, len(rest) - 1) if config["normalize_t"] else float(t) for t in range(len(rest))]
        calls = {"sqrt": math.sqrt, "exp": math.exp}
        table = [[calls[term](t) if term in calls else t**term for term in config["polynomial_terms"]] for t in points]
        coefficients = []
        for value in np.linalg.lstsq(np.array(table), np.array(rest), rcond=None)[0]:
            data, back = number_bytes(value, config["term_dtype"])
            record, coefficients = record + data, [*coefficients, back]
        fitted = [sum(c * term for c, term in zip(coefficients, line, strict=True)) for line in table]
    start = 0
    for part in config["residual_bins"]:
        where = range(start, start + part["num_elements"])
        residuals = [rest[place] - fitted[place] for place in where]
        steps = 1 if part["element_bits"] == 1 else 2 ** (part["element_bits"] - 1)
        data, scale = number_bytes(max(map(abs, residuals)) / steps or 1.0, part["scale_dtype"])
        record += data
        low, high = (0, 1) if part["element_bits"] == 1 else (-steps, steps - 1)
        packed = [min(max(round(value / scale), low), high) - low for value in residuals]
        record += bit_bytes(packed, part["element_bits"])
        for place, number in zip(where, packed, strict=True):
            fitted[place] += (2 * number - 1 if part["element_bits"] == 1 else number + low) * scale
        start += part["num_elements"]
    read += fitted
    return record, np.cumsum(read) if config["delta_encoding"] else np.array(read)


def labels_of(tokens, config):
    """Top-k log-probabilities and ids [T - 1, k] of a document: a function of its tokens."""
    generator = torch.Generator().manual_seed(sum(tokens) + 31 * len(tokens))
    logits = torch.randn(max(0, len(tokens) - 1), config["d"], generator=generator, dtype=torch.float64) * 2
    found = logits.log_softmax(1).topk(config["k"])
    return found.values.numpy(), found.indices.numpy()


def line_of(tokens, config, all_labels=False):
    """One row of a capture."""
    values, ids = labels_of([*tokens, 0] if all_labels else tokens, config)
    bits = math.ceil(math.log2(config["d"]))
    return {
        "input_ids": list(tokens),
        "compressed_logprobs": [list(encode(config, label)[0]) for label in values],
        "bytepacked_indices": [list(bit_bytes(label.tolist(), bits)) for label in ids],
    }


def write(folder, files, config, config_file="compression_config.yaml", **columns):
    """A capture: each file is a list of rows; `columns` are more columns of the schema."""
    schema = pa.schema(
        {
            "input_ids": pa.list_(pa.uint64()),
            "compressed_logprobs": pa.list_(pa.list_(pa.uint8())),
            "bytepacked_indices": pa.list_(pa.list_(pa.uint8())),
            **columns,
        }
    )
    folder.mkdir(exist_ok=True)
    for number, lines in enumerate(files):
        pq.write_table(pa.Table.from_pylist(lines, schema), folder / f"data_{number}.parquet")
    if config_file:
        (folder / config_file).write_text(yaml.safe_dump(config))
    return folder


DOCUMENTS = [[5, 1, 2, 299, 7], [9], [100, 101], [5, 1, 2, 299, 7], [3] * 12]


def bring(folder, out, config, vocabulary=CLASSES):
    return import_distillkit(folder, out, parse_config(config, "x"), "big", "f" * 32, vocabulary)


@pytest.mark.parametrize("name", CONFIGS)
def test_records_decode_to_what_was_encoded(name):
    config = CONFIGS[name]
    values, _ = labels_of(list(range(40)), config)
    records, wanted = zip(*(encode(config, label) for label in values), strict=True)
    parsed = parse_config(config, "x")
    data = np.array([list(record) for record in records], np.uint8)
    assert data.shape[1] == parsed.value_bytes
    tolerance = 2e-3 if name == "half_terms" else 1e-5  # t^i is rounded to float16 before it is used
    np.testing.assert_allclose(decode_log_probs(parsed, data), wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("bits", "count"), [(1, 9), (7, 3), (9, 24), (18, 5), (32, 2)])
def test_bits_there_and_back(bits, count):
    numbers = np.random.default_rng(bits).integers(0, 1 << bits, (6, count))
    packed = pack_bits(numbers, bits)
    assert packed.tolist() == [list(bit_bytes(line, bits)) for line in numbers.tolist()]
    np.testing.assert_array_equal(unpack_bits(packed, bits, count), numbers)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_capture_becomes_a_store(tmp_path, name):
    config = CONFIGS[name]
    lines = [line_of(tokens, config) for tokens in DOCUMENTS]
    write(tmp_path / "p", [lines[:2], lines[2:]], config)
    made = bring(tmp_path / "p", tmp_path / "s", config)
    assert verify_store(tmp_path / "s").ok
    store = open_store(tmp_path / "s", verify="full")
    assert [store.tokens(row).tolist() for row in range(4)] == [DOCUMENTS[n] for n in (0, 1, 2, 4)]
    assert store.occurrences().tolist() == [2, 1, 1, 1]
    keys = [sample_key_tokens(np.array(tokens)) for tokens in DOCUMENTS]
    assert store.key(0) == keys[0]
    counts = {key: keys.count(key) for key in keys}
    assert made.manifest.identity["input"] == digest_samples(sorted(counts.items()))
    assert made.manifest.identity["codec"] == {"type": "topk", "k": 24, "num_classes": CLASSES}
    for row in range(4):
        values, ids = labels_of(store.tokens(row).tolist(), config)
        wanted = np.array([encode(config, label)[1] for label in values]).reshape(len(values), 24)
        labels = store.labels(row)
        mass = np.maximum(1, np.exp(wanted).sum(1))
        order = np.argsort(-wanted, axis=1, kind="stable")
        got, want = labels.log_probs.numpy(), np.take_along_axis(wanted, order, 1) - np.log(mass)[:, None]
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-2)
        np.testing.assert_allclose(np.exp(got), np.exp(want), rtol=0, atol=2e-3)
        np.testing.assert_allclose(labels.tail_log_prob.exp(), np.maximum(0, 1 - np.exp(wanted).sum(1)), atol=2e-3)
        if name == "exact":
            np.testing.assert_array_equal(labels.ids.numpy(), np.take_along_axis(ids, order, 1))


def test_the_next_tokens_log_probability_is_known_or_the_tails(tmp_path):
    _, ids = labels_of([4, 0, 0], PLAIN)
    inside = [4, 0, 0]
    values, ids = labels_of(inside, PLAIN)
    hit = [int(0 in label) for label in ids]
    write(tmp_path / "p", [[line_of(inside, PLAIN)]], PLAIN)
    bring(tmp_path / "p", tmp_path / "s", PLAIN)
    store = open_store(tmp_path / "s")
    for label, value in enumerate(store.token_log_probs(0)):
        tail = math.log(1 - np.exp(values[label]).sum()) - math.log(CLASSES - 24)
        wanted = values[label][ids[label].tolist().index(0)] if hit[label] else tail
        assert value == pytest.approx(wanted, abs=1e-2)
    figures = store.manifest.extra["statistics"]
    assert figures["measured_labels"] == 2
    assert figures["tokens_outside_the_entries"] == 1 - sum(hit) / 2
    assert figures["mass_kept"] == pytest.approx(np.exp(values).sum(1).mean(), abs=1e-3)


def test_packed_rows_are_cut_into_documents(tmp_path):
    first, second = DOCUMENTS[0], DOCUMENTS[4]
    parts = [line_of(first, PLAIN, True), line_of(second, PLAIN, True)]
    line = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    padding = {name: [line[name][-1]] * 2 for name in line}
    line = {name: line[name] + padding[name] for name in line}
    line["attention_mask"] = [1] * len(first) + [2] * len(second) + [0, 0]
    write(tmp_path / "p", [[line]], PLAIN, attention_mask=pa.list_(pa.int64()))
    bring(tmp_path / "p", tmp_path / "s", PLAIN)
    store = open_store(tmp_path / "s")
    assert [store.tokens(row).tolist() for row in range(store.num_rows)] == [first, second]
    assert [store.name(row) for row in range(2)] == ["data_0.parquet:0.0", "data_0.parquet:0.1"]
    values, _ = labels_of([*second, 0], PLAIN)
    np.testing.assert_allclose(store.labels(1).log_probs.numpy(), values[:-1], atol=1e-2)


def test_entries_without_mass_and_rounded_sums(tmp_path):
    config = {**PLAIN, "d": 32, "k": 4, "exact_k": 4}
    over = [math.log(p) for p in (0.6, 0.3, 0.1, 0.05)]
    gone = [math.log(0.9), math.log(0.05), -math.inf, -math.inf]
    line = {
        "input_ids": [1, 2, 3],
        "compressed_logprobs": [list(struct.pack("<4f", *label)) for label in (over, gone)],
        "bytepacked_indices": [list(bit_bytes(label, 5)) for label in ([1, 2, 3, 4], [0, 31, 31, 31])],
    }
    write(tmp_path / "p", [[line]], config)
    bring(tmp_path / "p", tmp_path / "s", config, 32)
    assert verify_store(tmp_path / "s").ok
    labels = open_store(tmp_path / "s").labels(0)
    np.testing.assert_allclose(labels.log_probs[0].exp(), np.exp(over) / 1.05, rtol=2e-3)
    assert labels.tail_log_prob[0] == -math.inf
    assert labels.log_probs[1].tolist()[2:] == [-math.inf, -math.inf]
    assert len(set(labels.ids[1].tolist())) == 4
    figures = load_manifest(tmp_path / "s").extra["statistics"]
    assert (figures["labels_without_tail"], figures["entries_of_no_mass"]) == (1, 2)


def refused(folder, out, config, vocabulary=CLASSES):
    with pytest.raises(StoreError) as error:
        bring(folder, out, config, vocabulary)
    assert not (out / "manifest.json").exists()
    return str(error.value)


def test_what_is_not_this_capture_is_refused(tmp_path):
    lines = [line_of(tokens, CURVE) for tokens in DOCUMENTS]
    folder = write(tmp_path / "p", [lines], CURVE)
    assert "records of" in refused(folder, tmp_path / "a", {**CURVE, "exact_k": 7})
    assert "another tokenizer" in refused(folder, tmp_path / "b", CURVE, 200)
    # As many bytes, other numbers.
    exact = {**CURVE, "exact_dtype": "float32"}
    halves = {**exact, "exact_k": 12, "exact_dtype": "bfloat16"}
    wrong = write(tmp_path / "x", [[line_of(tokens, exact) for tokens in DOCUMENTS]], exact)
    assert "has labels of" in refused(wrong, tmp_path / "c", halves)
    rising = {"input_ids": [1, 2], "compressed_logprobs": [list(struct.pack("<24f", *[-4.0] * 23, -3.5))]}
    rising["bytepacked_indices"] = [list(bit_bytes(range(24), 9))]
    assert "rise by 0.5" in refused(write(tmp_path / "rising", [[rising]], PLAIN), tmp_path / "h", PLAIN)
    flat = {"input_ids": [1, 2], "compressed_logprobs": [list(struct.pack("<24f", *[-9.0] * 24))]}
    flat["bytepacked_indices"] = [list(bit_bytes(range(24), 9))]
    assert "total probability" in refused(write(tmp_path / "flat", [[flat]], PLAIN), tmp_path / "h", PLAIN)
    assert not list(tmp_path.glob("[a-h]"))  # so that the right configuration may write there
    assert "data_*" not in refused(tmp_path, tmp_path / "d", CURVE)
    wide = write(tmp_path / "wide", [[line_of([1, 2], {**PLAIN, "d": 512})]], PLAIN)
    message = refused(wide, tmp_path / "e", {**PLAIN, "d": 512}, 260)
    assert "--vocabulary" in message
    twice = line_of([1, 2], PLAIN)
    twice["bytepacked_indices"] = [list(bit_bytes([7] * 24, 9))]
    assert "twice" in refused(write(tmp_path / "twice", [[twice]], PLAIN), tmp_path / "f", PLAIN)
    short = line_of([1, 2, 3, 4], PLAIN)
    short["compressed_logprobs"] = short["compressed_logprobs"][:1]
    assert "labels" in refused(write(tmp_path / "short", [[short]], PLAIN), tmp_path / "g", PLAIN)


def test_files_of_another_layout_are_refused(tmp_path):
    (tmp_path / "p").mkdir()
    pq.write_table(pa.table({"input_ids": pa.array([[1]], pa.list_(pa.uint64()))}), tmp_path / "p" / "data_0.parquet")
    assert "missing" in refused(tmp_path / "p", tmp_path / "s", PLAIN)
    legacy = {name: pa.array([[1]]) for name in ("input_ids", "packed_indices", "exact_values", "coeffs")}
    pq.write_table(pa.table(legacy), tmp_path / "p" / "data_0.parquet")
    assert "legacy" in refused(tmp_path / "p", tmp_path / "s", PLAIN)
    (tmp_path / "p" / "data_0.parquet").write_bytes(b"PAR1 no more PAR1")
    assert "cannot be read" in refused(tmp_path / "p", tmp_path / "s", PLAIN)


@pytest.mark.parametrize(
    "change",
    [
        {"d": 0},
        {"k": 301},
        {"exact_k": 25},
        {"exact_k": 3, "polynomial_terms": None},
        {"exact_dtype": "int8"},
        {"unknown": 1},
        {"polynomial_terms": ["log"]},
        {"residual_bins": [{"scale_dtype": "float16"}]},
        {"residual_bins": [{"scale_dtype": "float16", "element_bits": 8, "num_elements": 9}]},
        {"legacy_logit_compression": {}},
    ],
)
def test_impossible_configurations_are_refused(change):
    with pytest.raises(StoreError, match="the file"):
        parse_config({**PLAIN, **change}, "the file")
    with pytest.raises(StoreError):
        parse_config("text", "the file")
    assert parse_config({"logprob_compressor": PLAIN}, "x") == parse_config(PLAIN, "x")


def test_a_killed_import_continues(tmp_path, monkeypatch):
    lines = [line_of(tokens, PLAIN) for tokens in DOCUMENTS]
    folder = write(tmp_path / "p", [[line] for line in lines] + [[]] * 7, PLAIN)  # data_10 comes after data_2
    bring(folder, tmp_path / "whole", PLAIN)
    import kdcore.store.distillkit.importing as module

    real, calls = module.write_shard, []

    def die(*arguments, **options):
        calls.append(arguments[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(module, "write_shard", die)
    with pytest.raises(KeyboardInterrupt):
        bring(folder, tmp_path / "s", PLAIN)
    monkeypatch.setattr(module, "write_shard", lambda *a, **o: calls.append(a[1]) or real(*a, **o))
    assert not bring(folder, tmp_path / "s", PLAIN).was_there
    assert len(calls) < 3 + len(lines) + 7
    assert rows_of(tmp_path / "s") == rows_of(tmp_path / "whole")
    assert [receipt.unit for receipt in load_manifest(tmp_path / "s").shards] == [f"unit-{n:06d}" for n in range(12)]
    assert bring(folder, tmp_path / "s", PLAIN).was_there


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_exports_to_distillkit_come_back(tmp_path, name):
    texts = {"alpha": 1, "beta": 1, "d": 1}
    path = make_codec_store(tmp_path / "s", name, [texts])
    code, output = kd("export", path, tmp_path / "p", "--format", "distillkit", "--top", 5)
    if name in ("threshold", "sampled"):  # labels of different lengths
        assert code == 2
        assert "plain" in output
        return
    assert code == 0, output
    config = parse_config(yaml.safe_load((tmp_path / "p" / "compression_config.yaml").read_text()), "x")
    import_distillkit(tmp_path / "p", tmp_path / "t", config, "big", "f" * 32, 40)
    old, new = open_store(path), open_store(tmp_path / "t")
    for row in range(3):
        assert new.tokens(row).tolist() == old.tokens(row).tolist()
        first, again = old.labels(row), new.labels(row)
        values = first.log_probs if name == "topk" else first.log_probs.topk(5).values
        np.testing.assert_allclose(again.log_probs.numpy(), values[:, :5].numpy(), atol=5e-3)
    assert kd("export", path, tmp_path / "q", "--format", "distillkit", "--top", 50)[0] == 2
    image = make_codec_store(tmp_path / "i", name, [texts], "image")
    assert kd("export", image, tmp_path / "q", "--format", "distillkit", "--top", 5)[0] == 2


def test_the_command_takes_the_captures_own_configuration(tmp_path, repo, monkeypatch):
    url = memory_url(tmp_path, monkeypatch)
    pytest.importorskip("transformers")
    config = {**PLAIN, "d": 2049}  # DistillKit counts one more than the tokenizer has
    folder = write(tmp_path / "p", [[line_of(tokens, {**config, "d": 2000}) for tokens in DOCUMENTS]], config)
    lines = [{**line_of(tokens, {**config, "d": 2000}), **_ids(tokens, config)} for tokens in DOCUMENTS]
    write(folder, [lines], config)
    options = ("--teacher", "big/model", "--tokenizer", repo / "models" / "stdlib-lm-4m")
    code, output = kd("import", "distillkit", folder, f"{url}/s", *options)
    assert code == 0, output
    assert "4 rows" in output
    identity = load_manifest(f"{url}/s").identity
    assert identity["teacher"]["name"] == "big/model"
    assert identity["vocabulary"] == identity["codec"]["num_classes"] == 2048
    assert "nothing to do" in kd("import", "distillkit", folder, f"{url}/s", *options)[1]
    (folder / "compression_config.yaml").rename(tmp_path / "elsewhere.yaml")
    code, output = kd("import", "distillkit", folder, tmp_path / "t", *options)
    assert code == 2
    assert "--config" in output
    assert kd("import", "distillkit", folder, tmp_path / "t", *options, "--config", tmp_path / "elsewhere.yaml")[0] == 0
    assert rows_of(tmp_path / "t") == rows_of(f"{url}/s")


def _ids(tokens, config):
    """Ids of 2000 classes in the bits of one more."""
    _, ids = labels_of(tokens, {**config, "d": 2000})
    bits = math.ceil(math.log2(config["d"]))
    return {"bytepacked_indices": [list(bit_bytes(label.tolist(), bits)) for label in ids]}
