"""Digests of weights, tokenizers, inputs and environments, and the comparison of two identities."""

import bisect
import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcore.errors import IdentityMismatch
from kdcore.facts import flatten

__all__ = [
    "KEY_BYTES",
    "canonical_json",
    "compare_identity",
    "differences",
    "digest_bytes",
    "digest_file",
    "digest_input",
    "digest_json",
    "digest_sample_arrays",
    "digest_samples",
    "digest_state",
    "digest_tokenizer",
    "join_input",
    "mix",
    "mix_next",
    "new_hash",
    "num_parts",
    "part_start",
    "sample_key_array",
    "sample_key_json",
    "sample_key_text",
    "sample_key_tokens",
]

KEY_BYTES = 16
"""Of the key of a sample."""
PART_SAMPLES = 1 << 24
"""Samples of one part of an input's digest."""
_PIECE = 1 << 16


def new_hash() -> "hashlib.blake2b":
    """An empty blake2b-128, the one digest of this project."""
    return hashlib.blake2b(digest_size=KEY_BYTES)


def digest_bytes(data: bytes) -> str:
    """32 hexadecimal characters."""
    return hashlib.blake2b(data, digest_size=KEY_BYTES).hexdigest()


def digest_file(path: str | Path) -> str:
    """Digest of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, new_hash).hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces; NaN and infinities are refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest_json(value: Any) -> str:
    """Digest of a JSON value, whatever the order of its keys."""
    return digest_bytes(canonical_json(value).encode())


def sample_key_text(text: str) -> bytes:
    """The key (16 bytes) of a document: its UTF-8 bytes; a lone surrogate is kept as it is."""
    return hashlib.blake2b(b"text\0" + text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def sample_key_json(kind: str, value: Any) -> bytes:
    """The key (16 bytes) of a sample of several parts: its kind, a zero byte, and the parts as canonical JSON."""
    return hashlib.blake2b(f"{kind}\0{canonical_json(value)}".encode(), digest_size=KEY_BYTES).digest()


def sample_key_array(array: np.ndarray) -> bytes:
    """The key (16 bytes) of an image: dtype (little endian), shape and bytes."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    state = new_hash()
    state.update(f"array\0{array.dtype.str}\0{array.shape}\0".encode())
    state.update(array.tobytes())
    return state.digest()


def sample_key_tokens(tokens: np.ndarray) -> bytes:
    """The key (16 bytes) of a document of which only the token ids are known: that of the ids as an int64 array."""
    return sample_key_array(np.ascontiguousarray(tokens, np.int64))


def digest_samples(samples: Iterable[tuple[bytes, int]]) -> str:
    """Digest of samples by key and number of occurrences, in the order given: of a unit, or (sorted) of an input.

    It is the digest of `[["KEY IN HEX", OCCURRENCES], ...]` as JSON, fed piece by piece.
    """
    pairs, state = iter(samples), new_hash()
    state.update(b"[")
    first = True
    while piece := list(itertools.islice(pairs, _PIECE)):
        keys = np.frombuffer(b"".join(key for key, _ in piece), np.uint8).reshape(-1, KEY_BYTES)
        text = _samples_text(keys, np.array([times for _, times in piece], dtype=np.int64))
        state.update(text[2:] if first else text)
        first = False
    state.update(b"]")
    return state.hexdigest()


def digest_sample_arrays(keys: np.ndarray, occurrences: np.ndarray) -> str:
    """`digest_samples` of keys uint8 [N, 16] (or uint64 [N, 2]) and their occurrences int [N]."""
    keys, state = _as_bytes(keys), new_hash()
    state.update(b"[")
    for start in range(0, len(keys), _PIECE):
        text = _samples_text(keys[start : start + _PIECE], occurrences[start : start + _PIECE])
        state.update(text[2:] if start == 0 else text)
    state.update(b"]")
    return state.hexdigest()


def _as_bytes(keys: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(keys).view(np.uint8).reshape(-1, KEY_BYTES)


def _samples_text(keys: np.ndarray, occurrences: np.ndarray) -> bytes:
    """`, ["KEY IN HEX", OCCURRENCES]` for each of keys uint8 [N, 16], one after the other."""
    counts = np.asarray(occurrences, dtype=np.int64)
    before, between = b', ["', b'", '
    digits = len(str(int(counts.max(initial=1))))
    text = np.empty((len(keys), len(before) + 2 * KEY_BYTES + len(between) + digits + 1), dtype=np.uint8)
    hexadecimal = np.frombuffer(b"0123456789abcdef", np.uint8)
    at = len(before)
    text[:, :at] = np.frombuffer(before, np.uint8)
    text[:, at : at + 2 * KEY_BYTES : 2] = hexadecimal[keys >> 4]
    text[:, at + 1 : at + 2 * KEY_BYTES : 2] = hexadecimal[keys & 15]
    at += 2 * KEY_BYTES
    text[:, at : at + len(between)] = np.frombuffer(between, np.uint8)
    at += len(between)
    powers = 10 ** np.arange(digits - 1, -1, -1, dtype=np.int64)
    text[:, at : at + digits] = hexadecimal[counts[:, None] // powers % 10]
    text[:, -1] = ord("]")
    written = np.ones(text.shape, dtype=bool)
    written[:, at : at + digits - 1] = counts[:, None] >= powers[:-1]  # no zeros in front
    return text[written].tobytes()


def digest_input(keys: np.ndarray, occurrences: np.ndarray) -> str:
    """Digest of an input: keys uint8 [N, 16] (or uint64 [N, 2]), sorted and each once, their occurrences int [N]."""
    keys, parts = _as_bytes(keys), num_parts(int(occurrences.sum()))
    bounds = [
        bisect.bisect_left(range(len(keys)), part_start(part, parts), key=lambda row: keys[row].tobytes())
        for part in range(parts + 1)
    ]
    return join_input([digest_sample_arrays(keys[a:b], occurrences[a:b]) for a, b in itertools.pairwise(bounds)])


def join_input(digests: Sequence[str]) -> str:
    """Digest of an input from those of its parts, in order: that of the one part, or the digest of the list."""
    return digests[0] if len(digests) == 1 else digest_json(list(digests))


def num_parts(num_samples: int, part_samples: int = PART_SAMPLES) -> int:
    """In how many parts, by the first bits of their keys, so many samples (repeated ones too) are compared."""
    return max(1, -(-num_samples // part_samples))


def part_start(part: int, parts: int) -> bytes:
    """The least key (16 bytes) of a part; of the one after the last, a byte string above every key."""
    return (-(-(part << 128) // parts)).to_bytes(KEY_BYTES, "big") if part < parts else b"\xff" * (KEY_BYTES + 1)


def digest_state(state: Mapping[str, Tensor]) -> str:
    """Digest of named tensors, in sorted order: names, dtypes, shapes, bytes. The device does not matter.

    Tensors that are sharded over ranks count as the whole ones: every rank must call this, and one is whole at a time.
    """
    result = new_hash()
    for name in sorted(state):
        tensor = _whole(state[name].detach()).cpu().contiguous()
        result.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        if tensor.numel():
            result.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()


def _whole(tensor: Tensor) -> Tensor:
    # By attribute: torch.distributed.tensor takes long to import, and only a sharded model has brought it in.
    gather = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def digest_tokenizer(tokenizer: Any) -> str:
    """Digest of what a tokenizer does: vocabulary, merges, normalisers, special ids and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content: Any = json.loads(backend.to_str())
        # Padding and truncation are state that a call leaves behind, not what the tokenizer is.
        content.pop("padding", None)
        content.pop("truncation", None)
    else:
        content = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    special = {name: getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos", "pad", "unk")}
    template = getattr(tokenizer, "chat_template", None)
    return digest_json({"content": content, "special": special, "chat_template": template})


def mix(values: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser, uint64 to uint64: a bijection that spreads every bit; the hash of orders and draws."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def mix_next(values: np.ndarray) -> np.ndarray:
    """A step of splitmix64 from each state, uint64 to uint64: `mix`, but 0 does not stay 0."""
    return mix(values + np.uint64(0x9E3779B97F4A7C15))


def differences(stored: Any, wanted: Any, ignore: Iterable[str] = ()) -> list[tuple[str, Any, Any]]:
    """Dotted path, stored value and wanted value of everything that differs; paths below `ignore` are skipped."""
    left, right = flatten(stored), flatten(wanted)
    skipped = tuple(ignore)
    return [
        (path, left.get(path, _ABSENT), right.get(path, _ABSENT))
        for path in sorted(left.keys() | right.keys())
        if left.get(path, _ABSENT) != right.get(path, _ABSENT)
        and not any(path == prefix or path.startswith(f"{prefix}.") for prefix in skipped)
    ]


def compare_identity(
    stored: Mapping[str, Any],
    wanted: Mapping[str, Any],
    ignore: Iterable[str] = ("versions",),
    what: str = "the label store",
) -> None:
    """IdentityMismatch that lists every dotted path at which two identities differ, with both values."""
    # Through JSON, so that a tuple equals the list that it became on disk.
    found = differences(json.loads(canonical_json(stored)), json.loads(canonical_json(wanted)), ignore)
    if not found:
        return
    lines = "\n".join(f"  {path}: stored {old!r}, wanted {new!r}" for path, old, new in found)
    raise IdentityMismatch(
        f"{what} was made by another teacher, tokenizer, codec or input than the one asked for:\n{lines}\n"
        f"Set these back, or give a new directory (labels.path, or another name) to label anew."
    )


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


_ABSENT = _Absent()
