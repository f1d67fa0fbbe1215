"""Byte ends of tokens of every family, and tokenizations joined where they agree."""

from functools import cache
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast

from kdcore.config.data import TextData
from kdcore.data.byte_ends import TokenBytes, byte_ends, bytes_before
from kdcore.data.document import Conversation, TextDocument
from kdcore.data.encoding import EncodedText, TextEncoder
from kdcore.errors import LabelError
from kdcore.labels.alignment import align
from tests.support.chat_tokenizer import chat_tokenizer
from tests.support.tokenizers_of_text import FAMILIES, LINES, tokenizer_of

PLAIN = TextData(path="x")
FEW = settings(max_examples=12, deadline=None)
TEXTS = st.one_of(
    st.sampled_from(LINES),
    st.text(st.characters(codec="utf-8"), max_size=40),
    st.lists(st.sampled_from(LINES), min_size=1, max_size=3).map(" ".join),
    st.text(st.sampled_from("aé\u0301 日😀\u200d\n\tfox"), max_size=30),
)


@cache
def encoder_of(family: str, with_bytes: bool = True) -> TextEncoder:
    """One for all texts."""
    return TextEncoder(tokenizer_of(family), PLAIN, with_bytes)


def encoded(family: str, text: str) -> tuple[EncodedText, np.ndarray]:
    """A document, and the bytes after which its tokens end."""
    found = encoder_of(family).encode(TextDocument("name", text))
    assert found.byte_ends is not None
    return found, found.byte_ends


@pytest.mark.parametrize("family", FAMILIES)
@FEW
@given(text=TEXTS)
@example(text=" ")
def test_ends_do_not_fall_and_reach_the_end(family: str, text: str) -> None:
    found, ends = encoded(family, text)
    assert len(ends) == len(found.tokens)
    assert (np.diff(ends) >= 0).all()
    assert ends[0] == 0  # the BOS
    assert ends[-1] == len(text.encode("utf-8")) + 1  # the EOS, also where no token is of the text's white space
    if len(ends) > 2:
        assert ends[-2] == len(text.encode("utf-8"))
    plain = encoder_of(family, with_bytes=False).encode(TextDocument("name", text))
    assert np.array_equal(plain.tokens, found.tokens)


@pytest.mark.parametrize("family", ["bytes", "byte-bpe-300", "byte-bpe-500"])
@FEW
@given(text=TEXTS)
def test_byte_level_tokens_are_the_bytes_of_the_text(family: str, text: str) -> None:
    found, ends = encoded(family, text)
    sizes = TokenBytes(tokenizer_of(family)).sizes
    assert np.array_equal(np.diff(ends)[:-1], sizes[found.tokens[1:-1]])


@pytest.mark.parametrize("family", ["bpe-fallback"])
def test_bytes_that_are_fallen_back_to(family: str) -> None:
    _, ends = encoded(family, "a𓀀b")
    assert {1, 2, 3, 4, 5, 6} <= set(ends.tolist())


def test_white_space_that_no_token_has_is_of_the_next_one() -> None:
    found, ends = encoded("wordpiece", "fox  dog   ")
    words = tokenizer_of("wordpiece").convert_ids_to_tokens(found.tokens.tolist())
    by_word = dict(zip(words, ends.tolist(), strict=True))
    assert by_word["<s>"] == 0
    assert by_word["</s>"] == 12
    assert "".join(word.removeprefix("##") for word, end in by_word.items() if 3 < end <= 11)[:3] == "dog"
    assert 3 in ends
    assert 8 not in ends[ends > 3][:-2]


def test_a_normalised_character_ends_where_it_does() -> None:
    # Two entries of one character, whose bytes do not add up to it: only the last has an end.
    before = bytes_before("aéb")
    offsets = np.array([(0, 1), (1, 2), (1, 2), (2, 3)])
    assert byte_ends(before, offsets, np.array([1, 1, 1, 1])).tolist() == [1, 2, 3, 4]
    assert byte_ends(before, offsets, np.array([1, 1, 2, 1])).tolist() == [1, 3, 3, 4]
    assert byte_ends(before, offsets, np.full(4, -1)).tolist() == [1, 3, 3, 4]


def test_no_token() -> None:
    assert byte_ends(bytes_before("  "), np.empty((0, 2), int), np.empty(0, int)).tolist() == []
    assert byte_ends(bytes_before("  "), np.zeros((2, 2), int), np.array([-1, -1])).tolist() == [0, 0]


@pytest.mark.parametrize("pair", product(FAMILIES[:3], FAMILIES[1:]), ids="/".join)
@FEW
@given(text=TEXTS, seed=st.integers(0, 99))
def test_chunks_end_at_equal_bytes_and_cover_all_once(pair: tuple[str, str], text: str, seed: int) -> None:
    (_, first), (_, second) = (encoded(family, text) for family in pair)
    found = align(first, second)
    for ends, chunk in ((first, found.first), (second, found.second)):
        if ends[-1] == first[-1] == second[-1]:
            assert (chunk >= 0).all()
        kept = chunk[chunk >= 0]
        assert np.array_equal(np.unique(kept), np.arange(found.num_chunks))
        assert (np.diff(kept) >= 0).all()
        last = np.searchsorted(kept, np.arange(found.num_chunks), "right") - 1
        assert np.array_equal(ends[last], found.ends)
        scores = np.random.default_rng(seed).normal(size=len(kept))
        assert np.isclose(np.bincount(kept, scores).sum(), scores.sum())
    # Minimal: no byte inside of a chunk ends a token of both.
    for low, high in pairwise([-1, *found.ends.tolist()]):
        inside = set(first[(first > low) & (first < high)]) & set(second[(second > low) & (second < high)])
        assert not inside


def test_ends_that_fall_are_refused() -> None:
    with pytest.raises(LabelError, match="must not fall"):
        align(np.array([1, 3, 2]), np.array([1, 2, 3]))


def test_after_the_last_common_end_there_is_no_chunk() -> None:
    found = align(np.array([0, 2, 5, 7]), np.array([2, 4, 5, 6]))
    assert found.first.tolist() == [0, 0, 1, -1]
    assert found.second.tolist() == [0, 1, 1, -1]
    assert found.ends.tolist() == [2, 5]


def test_special_tokens_of_a_template_have_their_bytes() -> None:
    talk = Conversation([{"role": "user", "content": "größer?"}, {"role": "assistant", "content": "ja 😀"}])
    config = TextData(path="x", messages_field="messages", mask="assistant")
    document = TextDocument("name", "", conversation=talk)
    words = chat_tokenizer(words=("assistant", "user", "ja"))
    ours, theirs = (TextEncoder(tok, config, with_bytes=True).encode(document) for tok in (chat_tokenizer(), words))
    assert ours.byte_ends is not None
    assert theirs.byte_ends is not None
    text = "<|im_start|>user\ngrößer?<|im_end|>\n<|im_start|>assistant\nja 😀<|im_end|>\n"
    assert ours.byte_ends[0] == len("<|im_start|>")
    assert ours.byte_ends[-1] == theirs.byte_ends[-1] == len(text.encode())
    found = align(ours.byte_ends, theirs.byte_ends)
    assert np.array_equal(found.ends, theirs.byte_ends)


def test_boundaries() -> None:
    for family, word, inside in (("byte-bpe-500", "Ġ", "x"), ("unigram", "▁", "o"), ("wordpiece", "fox", "##o")):
        tokenizer = tokenizer_of(family)
        marks = TokenBytes(tokenizer).boundaries(600)
        vocabulary = tokenizer.get_vocab()
        assert marks[vocabulary["</s>"]]
        assert marks[vocabulary[word]]
        assert not marks[vocabulary[inside]]
        assert not marks[len(vocabulary) :].any()


def test_added_runs_of_spaces_are_spaces() -> None:
    """As in tokenizers that are converted from SentencePiece models whose users defined such entries."""
    vocabulary = {text: number for number, text in enumerate(("<s>", "▁", "▁▁", "\n\n", "a"))}
    backend = Tokenizer(models.BPE(vocabulary, [("▁", "▁")]))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.add_tokens([AddedToken(text, normalized=False) for text in ("▁▁", "\n\n")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")
    assert tokenizer.encode("a  a\n\na ") == [4, 2, 4, 3, 4, 1]
    entries = TokenBytes(tokenizer)
    assert entries.boundaries(5).tolist() == [True, True, True, True, False]
    assert entries.names() == {"<s>": 0, b" ": 1, b"  ": 2, b"\n\n": 3, b"a": 4}
    found = TextEncoder(tokenizer, PLAIN, with_bytes=True).encode(TextDocument("name", "a  a\n\na "))
    assert found.byte_ends is not None
    assert found.byte_ends.tolist() == [0, 1, 3, 4, 6, 7, 8]


def test_entries_are_known_by_what_they_stand_for() -> None:
    names = {family: TokenBytes(tokenizer_of(family)).names() for family in FAMILIES}
    for family, found in names.items():
        tokenizer = tokenizer_of(family)
        assert (found["EOS"], found["<s>"]) == (tokenizer.eos_token_id, tokenizer.bos_token_id)
        assert len(set(found.values())) == len(found)
        # A word as the tokenizer says it, by bytes.
        ids = tokenizer.encode("x fox jump", add_special_tokens=False)
        known = {number: name for name, number in found.items()}
        said = b"".join(name for each in ids if isinstance(name := known[each], bytes))
        assert said.strip() == b"x fox jump"
    fallback = tokenizer_of("bpe-fallback")
    assert names["bpe-fallback"][b"\0"] == fallback.convert_tokens_to_ids("<0x00>")
    assert names["bpe-fallback"][b"a"] == fallback.convert_tokens_to_ids("a")  # and not <0x61>
    assert names["bytes"].keys() <= names["byte-bpe-500"].keys()
