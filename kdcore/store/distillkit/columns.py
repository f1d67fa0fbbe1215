"""DistillKit's label columns: what its Parquet files hold, read and written.

The layout was taken from arcee-ai/DistillKit at a61c2e7 (distillkit/compression, sample_common.py). Little-endian; k
classes a token, by falling log-probability. Columns: `input_ids` list<uint64>; `compressed_logprobs` and
`bytepacked_indices`, both list<list<uint8>>: one record a label, the label of position j being the distribution after
input_ids[: j + 1]. A capture has one label less than tokens, packed ones as many.

    compressed_logprobs   exact_k values of exact_dtype
                          one coefficient of term_dtype for each polynomial term
                          for each residual bin: a scale of scale_dtype, num_elements numbers of element_bits bits
    bytepacked_indices    k numbers of ceil(log2 d) bits

Numbers of less than a byte are packed highest bit first, and the last byte filled up with zeros. The values from
exact_k on are t = 0, 1, ... : the sum of coefficient x term(t) (t^i, sqrt or exp; t from 0 to 1 with normalize_t) plus
the residual, (number - 2^(bits - 1)) x scale, or +-scale for one bit, or zero behind the bins. With delta_encoding a
value is the sum of all values up to it. Which of these a file has stands in compression_config.yaml beside it, or
nowhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from kdcore.errors import StoreError

__all__ = [
    "SCHEMA",
    "Bin",
    "DistillKitConfig",
    "decode_log_probs",
    "exact_config",
    "pack_bits",
    "parse_config",
    "unpack_bits",
]

SCHEMA = pa.schema(
    {
        "input_ids": pa.list_(pa.uint64()),
        "compressed_logprobs": pa.list_(pa.list_(pa.uint8())),
        "bytepacked_indices": pa.list_(pa.list_(pa.uint8())),
    }
)
_DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
_DEFAULTS: dict[str, Any] = {
    "exact_dtype": "float32",
    "polynomial_terms": None,
    "term_dtype": "float32",
    "delta_encoding": True,
    "error_diffusion": False,
    "normalize_t": False,
}
_NEEDED = ("d", "k", "exact_k", "residual_bins")


@dataclass(frozen=True)
class Bin:
    """Residuals of `num_elements` values, `element_bits` each, with one scale."""

    scale_dtype: str
    element_bits: int
    num_elements: int

    @property
    def bytes(self) -> int:
        """The packed numbers, without the scale."""
        return (self.element_bits * self.num_elements + 7) // 8


@dataclass(frozen=True)
class DistillKitConfig:
    """One compression_config.yaml, under DistillKit's names."""

    d: int
    k: int
    exact_k: int
    exact_dtype: str
    polynomial_terms: tuple[int | str, ...]
    term_dtype: str
    residual_bins: tuple[Bin, ...]
    delta_encoding: bool
    error_diffusion: bool
    normalize_t: bool

    @property
    def id_bits(self) -> int:
        """Bits of a packed class id."""
        return max(1, (self.d - 1).bit_length())

    @property
    def id_bytes(self) -> int:
        """Bytes of a record of `bytepacked_indices`."""
        return (self.k * self.id_bits + 7) // 8

    @property
    def value_bytes(self) -> int:
        """Bytes of a record of `compressed_logprobs`."""
        bins = sum(_DTYPES[part.scale_dtype].itemsize + part.bytes for part in self.residual_bins)
        terms = len(self.polynomial_terms) * _DTYPES[self.term_dtype].itemsize
        return self.exact_k * _DTYPES[self.exact_dtype].itemsize + terms + bins


def parse_config(value: Any, where: str) -> DistillKitConfig:
    """The configuration of parsed YAML, alone or as `logprob_compressor` of a training file; StoreError otherwise."""
    if isinstance(value, Mapping) and "logprob_compressor" in value:
        value = value["logprob_compressor"]
    if isinstance(value, Mapping) and ({"legacy_logit_compression", "polynomial_degree"} & set(value)):
        raise StoreError(f"{where} is of DistillKit's legacy layout, centred logits without their sum: not read")
    known = {*_NEEDED, *_DEFAULTS}
    if not isinstance(value, Mapping) or set(value) - known or not set(_NEEDED) <= set(value):
        found = sorted(value) if isinstance(value, Mapping) else type(value).__name__
        raise StoreError(f"{where} must have {list(_NEEDED)} and may have {sorted(_DEFAULTS)}, it has {found}")
    fields = {**_DEFAULTS, **value}
    fields["polynomial_terms"] = tuple(fields["polynomial_terms"] or ())
    try:
        fields["residual_bins"] = tuple(Bin(**part) for part in fields["residual_bins"] or ())
        config = DistillKitConfig(**fields)
        right = _is_possible(config)
    except (TypeError, AttributeError) as error:
        raise StoreError(f"{where} is no configuration of DistillKit's: {error}") from error
    if not right:
        raise StoreError(f"{where} is no configuration that DistillKit can have written with: {dict(value)}")
    return config


def _is_possible(config: DistillKitConfig) -> bool:
    dtypes = [config.exact_dtype, config.term_dtype, *(part.scale_dtype for part in config.residual_bins)]
    counts = [config.d, config.k, *(n for part in config.residual_bins for n in (part.element_bits, part.num_elements))]
    rest = config.k - config.exact_k
    return (
        all(dtype in _DTYPES for dtype in dtypes)
        and all(type(count) is int and count > 0 for count in counts)
        and type(config.exact_k) is int
        and 0 <= config.exact_k <= config.k <= config.d <= 1 << 24
        and all(part.element_bits <= 32 for part in config.residual_bins)
        and sum(part.num_elements for part in config.residual_bins) <= rest
        and all(type(term) is int or term in ("sqrt", "exp") for term in config.polynomial_terms)
        and (rest == 0 or bool(config.polynomial_terms or config.residual_bins))
    )


def unpack_bits(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    """uint8 [N, bytes] into int64 [N, count] of `bits` (up to 32) bits each, highest bit first."""
    wide = np.zeros((len(data), count, 32), np.uint8)
    wide[:, :, 32 - bits :] = np.unpackbits(data, axis=1)[:, : count * bits].reshape(len(data), count, bits)
    return np.packbits(wide, axis=2).view(">u4")[:, :, 0].astype(np.int64)


def pack_bits(numbers: np.ndarray, bits: int) -> np.ndarray:
    """int64 [N, count] into uint8 [N, bytes], the opposite of `unpack_bits`."""
    wide = np.unpackbits(np.ascontiguousarray(numbers[:, :, None].astype(">u4")).view(np.uint8), axis=2)
    return np.packbits(wide[:, :, 32 - bits :].reshape(len(numbers), -1), axis=1)


def decode_log_probs(config: DistillKitConfig, data: np.ndarray) -> np.ndarray:
    """Records uint8 [N, value_bytes] into values float64 [N, k]; what was rounded when written stays so.

    DistillKit itself rounds the residuals to exact_dtype once more when it reads; here they are not.
    """
    rest = data
    parts: dict[str, np.ndarray] = {}

    def take(dtype: str, count: int) -> np.ndarray:
        nonlocal rest
        size = count * _DTYPES[dtype].itemsize
        head, rest = rest[:, :size].copy(), rest[:, size:]  # one row of a slice counts as contiguous
        if not count:
            return np.zeros((len(data), 0))
        return torch.from_numpy(head).view(_DTYPES[dtype]).double().numpy()

    parts["exact"] = take(config.exact_dtype, config.exact_k)
    coefficients = take(config.term_dtype, len(config.polynomial_terms))
    fitted = coefficients @ _terms(config).T
    start = 0
    for part in config.residual_bins:
        scale = take(part.scale_dtype, 1)
        numbers = unpack_bits(rest[:, : part.bytes], part.element_bits, part.num_elements)
        rest = rest[:, part.bytes :]
        steps = 2 * numbers - 1 if part.element_bits == 1 else numbers - (1 << part.element_bits - 1)
        fitted[:, start : start + part.num_elements] += steps * scale
        start += part.num_elements
    values = np.concatenate([parts["exact"], fitted], axis=1)
    return np.cumsum(values, axis=1) if config.delta_encoding else values


def _terms(config: DistillKitConfig) -> np.ndarray:
    """float64 [k - exact_k, terms], each rounded to term_dtype, in which the coefficients were fitted."""
    count = config.k - config.exact_k
    t = torch.linspace(0, 1, count) if config.normalize_t else torch.arange(count, dtype=torch.float32)
    found = [t**term if isinstance(term, int) else getattr(t, term)() for term in config.polynomial_terms]
    table = torch.stack(found, dim=1) if found else torch.zeros(count, 0)
    return table.to(_DTYPES[config.term_dtype]).double().numpy()


def exact_config(num_classes: int, top: int) -> bytes:
    """The compression_config.yaml of an export: `top` float32 values, nothing fitted."""
    return (
        f"d: {num_classes}\nk: {top}\nexact_k: {top}\nexact_dtype: float32\npolynomial_terms: null\n"
        "term_dtype: float32\nresidual_bins: []\ndelta_encoding: false\nerror_diffusion: false\nnormalize_t: false\n"
    ).encode()
