"""Digests change with everything that matters and with nothing else."""

import json

import numpy as np
import pytest
import torch

from kdcore.errors import IdentityMismatch
from kdcore.facts import package_versions
from kdcore.identity import (
    compare_identity,
    digest_bytes,
    digest_file,
    digest_json,
    digest_samples,
    digest_state,
    digest_tokenizer,
    sample_key_array,
    sample_key_text,
    sample_key_tokens,
)


def test_digests_of_bytes_and_files_agree(tmp_path):
    (tmp_path / "f").write_bytes(b"abc" * 100_000)
    assert digest_file(tmp_path / "f") == digest_bytes(b"abc" * 100_000)
    assert len(digest_bytes(b"")) == 32
    # Known answer, so that keys of stores on disk stay what they are.
    assert digest_bytes(b"abc") == "cf4ab791c62b8d2b2109c90275287816"


def test_json_digest_ignores_key_order_only():
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": (1, 2), "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": "1"})
    with pytest.raises(ValueError):
        digest_json(float("nan"))


def test_text_keys():
    assert len(sample_key_text("")) == 16
    assert sample_key_text("a") == sample_key_text("a")
    assert len({sample_key_text(text) for text in ("", "a", "a\n", "A", "\u00e9", "e\u0301", "\ud800")}) == 7


def test_array_keys_see_dtype_shape_and_content():
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert len(sample_key_array(array)) == 16
    assert sample_key_array(array) == sample_key_array(np.asfortranarray(array))
    assert sample_key_array(array) == sample_key_array(array.astype(">f4"))
    others = [array.reshape(3, 2), array.astype(np.float64), array + 1, array.T]
    assert len({sample_key_array(value) for value in [array, *others]}) == 5


def test_state_digest_ignores_order_and_layout():
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1, dtype=torch.int64)}
    same = {"b": state["b"].clone(), "a": state["a"].t().contiguous().t()}
    assert digest_state(state) == digest_state(same)


@pytest.mark.parametrize(
    "change",
    [
        {"a": torch.zeros(2, 3)},
        {"a": torch.arange(6.0).reshape(3, 2)},
        {"a": torch.arange(6.0).reshape(2, 3).double()},
        {"a": torch.arange(6.0).reshape(2, 3).bfloat16()},
        {"c": torch.arange(6.0).reshape(2, 3)},
        {},
    ],
)
def test_state_digest_sees_every_change(change):
    assert digest_state(change) != digest_state({"a": torch.arange(6.0).reshape(2, 3)})


def test_comparison_lists_every_path_with_both_values():
    stored = {
        "teacher": {"weights": "aa", "dtype": "float32"},
        "numerics": {"context": 128},
        "versions": {"torch": "1"},
    }
    wanted = {"teacher": {"weights": "bb", "dtype": "float32"}, "numerics": {}, "versions": {"torch": "2"}}
    with pytest.raises(IdentityMismatch) as caught:
        compare_identity(stored, wanted)
    message = str(caught.value)
    assert "teacher.weights: stored 'aa', wanted 'bb'" in message
    assert "numerics.context: stored 128, wanted (absent)" in message
    assert "teacher.dtype" not in message
    assert "versions" not in message
    assert "labels.path" in message


def test_equal_identities_pass_whatever_the_versions():
    compare_identity({"a": [1, 2], "versions": {"x": "1"}}, {"a": (1, 2), "versions": {"x": "2"}})
    compare_identity({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 3}}, ignore=("b.c",))
    with pytest.raises(IdentityMismatch):
        compare_identity({"versions": {"x": 1}}, {"versions": {"x": 2}}, ignore=())
    with pytest.raises(IdentityMismatch):
        compare_identity({"versions_of": 1}, {"versions_of": 2})


def test_versions_leave_out_what_is_not_installed():
    found = package_versions(("torch", "no-such-package-here"))
    assert found == {"torch": found["torch"]}


def _tokenizer(words, **kwargs):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    model = tokenizers.models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer(model), **kwargs)


def test_tokenizer_digest_sees_vocabulary_special_ids_and_template():
    first = digest_tokenizer(_tokenizer(["u", "a", "b"]))
    assert first == digest_tokenizer(_tokenizer(["u", "a", "b"]))
    assert first != digest_tokenizer(_tokenizer(["u", "b", "a"]))
    assert first != digest_tokenizer(_tokenizer(["u", "a", "b"], eos_token="b"))
    assert first != digest_tokenizer(_tokenizer(["u", "a", "b"], chat_template="{{ x }}"))


def test_tokenizer_digest_is_not_moved_by_use():
    tokenizer = _tokenizer(["u", "a", "b"], pad_token="u")
    before = digest_tokenizer(tokenizer)
    tokenizer(["a", "a b"], padding=True, truncation=True, max_length=4)
    assert digest_tokenizer(tokenizer) == before


@pytest.mark.parametrize("count", [0, 1, 3])
def test_samples_are_digested_as_json(count):
    samples = [(bytes([number]) * 16, number + 1) for number in range(count)]
    text = json.dumps([[key.hex(), times] for key, times in samples])
    assert digest_samples(samples) == digest_bytes(text.encode())


def test_tokens_have_a_key_of_their_own_whatever_their_dtype():
    tokens = np.array([1, 2, 70_000])
    assert sample_key_tokens(tokens) == sample_key_tokens(tokens.astype(np.uint64)) == sample_key_array(tokens)
    assert sample_key_tokens(tokens) != sample_key_tokens(tokens[:2])
