"""After which byte of its text each token ends, by what any fast tokenizer says of characters and of its entries.

Tokenizers count characters, and a token may end inside of one: byte-level entries and the bytes that SentencePiece
falls back to. Such tokens claim the same character; where their own bytes add up to what they claim together, they are
laid out one after the other, else none of them but the last ends anywhere (a normaliser changed the character).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcore.errors import TokenizerMismatch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["TokenBytes", "byte_ends", "bytes_before", "exact_backend"]

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACES = b" \t\n\r\x0b\x0c"
_WORD = "\u2581"  # SentencePiece's space


def bytes_before(text: str) -> np.ndarray:
    """How many bytes of UTF-8 are before each character of a text, and in all: int64 [characters + 1]."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    sizes = 1 + (points > 0x7F).astype(np.int64) + (points > 0x7FF) + (points > 0xFFFF)
    return np.append(0, np.cumsum(sizes))


def byte_ends(before: np.ndarray, offsets: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The byte after which each token ends, int64 [T], not falling; that of the last one is the text's last.

    `before` is what `bytes_before` gives of the text; `offsets` int [T, 2] the characters begin .. end - 1 of each
    token, (0, 0) of one that has none; `sizes` int [T] the bytes that it stands for, -1 where that is not known. Bytes
    that no token claims (white space of WordPiece) are of the next one, or of the last.
    """
    begins, ends = np.asarray(offsets, np.int64).reshape(-1, 2).T
    found = np.maximum.accumulate(before[ends]) if len(ends) else before[ends]
    owns = ends > begins
    index = np.flatnonzero(owns)
    if len(index):
        found[index] = np.maximum.accumulate(_laid_out(before[begins[index]], before[ends[index]], sizes[index]))
        found = np.maximum.accumulate(np.where(owns, found, 0))
        found[index[-1] :] = before[-1]
    return found


def _laid_out(begins: np.ndarray, ends: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Ends of tokens that claim the bytes begin .. end - 1, where some claim the same ones."""
    highest = np.maximum.accumulate(ends)
    fresh = np.append(True, begins[1:] >= highest[:-1])
    group = np.cumsum(fresh) - 1
    first = np.flatnonzero(fresh)
    last = np.append(first[1:], len(begins)) - 1
    claimed = highest[last] - begins[first]
    known = np.add.reduceat((sizes >= 0).astype(np.int64), first) == last - first + 1
    exact = known & (np.add.reduceat(sizes, first) == claimed)
    within = np.cumsum(sizes) - (np.cumsum(sizes)[first] - sizes[first])[group]
    return np.where(exact[group], begins[first][group] + within, highest[last][group])


@dataclass(frozen=True)
class TokenBytes:
    """What the entries of a tokenizer stand for. TokenizerMismatch when it has no tokenizer.json."""

    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def _backend(self) -> dict[str, Any]:
        return json.loads(exact_backend(self.tokenizer).to_str())

    @cached_property
    def _entries(self) -> list[tuple[int, bytes | None, bool]]:
        """Id, bytes (None: not known) and whether it is special, of each entry."""
        level = _has(self._backend, "ByteLevel")
        fallback = bool(self._backend["model"].get("byte_fallback"))
        added = {token["id"]: token for token in self._backend["added_tokens"]}
        found: list[tuple[int, bytes | None, bool]] = []
        for text, number in self.tokenizer.get_vocab().items():
            own = added.get(number)
            # What SentencePiece's users define is of the model too, and shows its spaces as the model's entries do.
            if own is not None and (level or own["special"] or _WORD not in text):
                found.append((number, text.encode(), bool(own["special"])))
            else:
                found.append((number, _bytes_of(text, level, fallback), False))
        return found

    @cached_property
    def sizes(self) -> np.ndarray:
        """The bytes that each id stands for, int64 [ids]; -1 where the text alone decides."""
        sizes = np.full(1 + max(number for number, _, _ in self._entries), -1, np.int64)
        for number, content, _ in self._entries:
            sizes[number] = -1 if content is None else len(content)
        return sizes

    def names(self) -> dict[bytes | str, int]:
        """Each entry by what it stands for: the bytes of text, a special one by its text, and the EOS as `EOS`.

        White space is a space, however a tokenizer shows it, so that entries of other tokenizers are found. Of several
        that stand for the same, it is the one that is no byte fallen back to.
        """
        model, eos = self._backend["model"], self.tokenizer.eos_token_id
        prefix = model.get("continuing_subword_prefix") if model["type"] == "WordPiece" else None
        found: dict[bytes | str, int] = {}
        for number, content, special in sorted(self._entries, key=lambda entry: entry[1] is None):
            text = str(self.tokenizer.convert_ids_to_tokens(number))
            if number == eos:
                found["EOS"] = number
            elif special:
                found[text] = number
            elif content is not None:
                found[content] = number
            elif prefix:
                found[(text.removeprefix(prefix) if text.startswith(prefix) else f" {text}").encode()] = number
            else:
                found[text.replace(_WORD, " ").encode()] = number
        return found

    def boundaries(self, num_classes: int) -> np.ndarray:
        """Which of a model's classes begin with white space, or are special: bool [num_classes].

        After such a token, or before the end, whatever stands before is whole. Of WordPiece it is every entry that
        begins a word.
        """
        marks = np.zeros(num_classes, bool)
        prefix = self._backend["model"].get("continuing_subword_prefix")
        words = self._backend["model"]["type"] == "WordPiece" and prefix
        texts = {number: text for text, number in self.tokenizer.get_vocab().items()} if words else {}
        for number, content, special in self._entries:
            if words and not special:
                marks[number] = not texts[number].startswith(prefix)
            else:
                marks[number] = special or _begins_with_space(content, self.tokenizer, number)
        return marks


def _begins_with_space(content: bytes | None, tokenizer: PreTrainedTokenizerBase, number: int) -> bool:
    if content is None:
        text = str(tokenizer.convert_ids_to_tokens(number))
        return text[:1] == _WORD or text[:1].isspace()
    return content[:1] != b"" and content[:1] in _SPACES


def _bytes_of(text: str, level: bool, fallback: bool) -> bytes | None:
    if level:
        table = _byte_table()
        return bytes(table[char] for char in text) if all(char in table for char in text) else None
    found = _FALLBACK.fullmatch(text) if fallback else None
    return None if found is None else bytes([int(found[1], 16)])


@cache
def _byte_table() -> dict[str, int]:
    """The characters that stand for bytes in a byte-level tokenizer: printable ones for themselves, the rest moved."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(moved)}


def _has(content: dict[str, Any], kind: str) -> bool:
    """Whether tokens are made of the characters that stand for bytes."""
    return any(f'"type": "{kind}"' in json.dumps(content.get(part)) for part in ("pre_tokenizer", "normalizer"))


def exact_backend(tokenizer: PreTrainedTokenizerBase) -> Any:
    """A copy of the tokenizer's backend whose offsets leave no white space out, so that tokens join without a gap."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TokenizerMismatch(
            f"prompts, conversations and labels for other tokenizers need a tokenizer that knows which characters a "
            f"token comes from; '{tokenizer.name_or_path}' has no tokenizer.json. Set `tokenizer` to a fast one, or "
            "train on plain text"
        )
    content = json.loads(backend.to_str())
    content.update(padding=None, truncation=None)
    return type(backend).from_str(json.dumps(_untrimmed(content)))


def _untrimmed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: False if key == "trim_offsets" else _untrimmed(item) for key, item in value.items()}
    return [_untrimmed(item) for item in value] if isinstance(value, list) else value
