"""Parameters of views to the bytes of rows, and back.

A row is one stream of bits, lowest first, of its `per_image` views: each flag of all views, then each word of all views
that have it (`Layout`), in their order. Flags come first, so that any view of a row is found by counting flags.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from kdcore.config.views import ViewPolicy
from kdcore.errors import LabelError
from kdcore.labels.views.fields import Layout, Word, layout_of
from kdcore.labels.views.parameters import CUTMIX, MIXUP, UNMIXED, Views

__all__ = ["bytes_per_view", "pack_views", "unpack_views"]

_Mask = np.ndarray | None
"""Which views have a word, bool [rows, per_image]; None where all do."""


def bytes_per_view(policy: ViewPolicy) -> float:
    """Bytes of a view's parameters, on average, in a row of `per_image` views."""
    mixed = policy.mix.probability if policy.mix else 0.0
    bits = policy.per_image * layout_of(policy).bits(policy.erase, mixed, mixed * _cut_share(policy))
    return math.ceil(bits / 8) / policy.per_image


def pack_views(policy: ViewPolicy, views: Views) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of rows, flat uint8, and of each row how many, int64 [rows]; `per_image` views a row, in order.

    LabelError when the views are not whole rows, or not of this policy.
    """
    layout, per_image = layout_of(policy), policy.per_image
    if len(views) % per_image or views.ops.shape[1] != layout.num_ops:
        raise LabelError(
            f"a row holds {per_image} views of {layout.num_ops} operations, got {len(views)} views of "
            f"{views.ops.shape[1]}: the views are of another policy"
        )
    rows = len(views) // per_image
    flags = _flags_of(views, per_image)
    masks = _masks(policy, {name: flags[name] for name in layout.flags}, rows)
    if any(not np.array_equal(flags[name], masks[name]) for name in flags):
        raise LabelError("the views have or lack an erasure or a mix that their policy does not allow")
    lengths = -(-_row_bits(layout, masks, rows, per_image) // 8)
    bits = np.zeros(8 * int(lengths.sum()), np.uint8)
    offsets = 8 * (np.cumsum(lengths) - lengths)
    for name in layout.flags:
        _write(bits, _places(offsets, None, 1, per_image), flags[name].reshape(-1), 1)
        offsets += per_image
    for word, mask in _words(layout, masks):
        chosen = slice(None) if mask is None else mask.reshape(-1)
        places = _places(offsets, mask, word.bits, per_image)[chosen]
        _write(bits, places, _joined(word, views[chosen]), word.bits)
        offsets += _counts(mask, per_image) * word.bits
    return np.packbits(bits, bitorder="little"), lengths


def unpack_views(policy: ViewPolicy, flat: np.ndarray, lengths: np.ndarray, chosen: np.ndarray | None = None) -> Views:
    """The views of rows: all, or of each row the one that `chosen` int [rows] names (0 .. per_image - 1).

    `flat` uint8 holds the rows one after the other, of `lengths` int [rows] bytes. LabelError when they are damaged.
    """
    layout, per_image = layout_of(policy), policy.per_image
    lengths = np.asarray(lengths, np.int64)
    offsets = 8 * (np.cumsum(lengths) - lengths)
    _check_room(layout, lengths, flat, per_image)
    reader = _Reader(flat)
    flags = {}
    for name in layout.flags:
        flags[name] = reader.numbers(_places(offsets, None, 1, per_image), 1).reshape(-1, per_image).astype(bool)
        offsets += per_image
    masks = _masks(policy, flags, len(lengths))
    if not np.array_equal(lengths, -(-_row_bits(layout, masks, len(lengths), per_image) // 8)):
        raise LabelError("the views of a row take another number of bytes than their flags say: the shard was altered")
    wanted = slice(None) if chosen is None else per_image * np.arange(len(lengths)) + _within(chosen, per_image)
    views = Views.zeros(len(lengths) * (1 if chosen is not None else per_image), layout.num_ops)
    _set_flags(views, masks, wanted)
    for word, mask in _words(layout, masks):
        places = _places(offsets, mask, word.bits, per_image)[wanted]
        present = None if mask is None else np.flatnonzero(mask.reshape(-1)[wanted])
        numbers = reader.numbers(places if present is None else places[present], word.bits)
        _split(word, numbers, views, slice(None) if present is None else present)
        offsets += _counts(mask, per_image) * word.bits
    return views


class _Reader:
    """Numbers at any bit of a flat uint8 array."""

    def __init__(self, flat: np.ndarray) -> None:
        padded = np.concatenate([flat, np.zeros(8, np.uint8)])
        # Eight bytes from every byte on: a number of 56 bits lies within one of them, wherever it begins.
        self._windows = np.ndarray(len(flat) + 1, "<u8", padded.data, strides=(1,))

    def numbers(self, places: np.ndarray, bits: int) -> np.ndarray:
        """The numbers of so many bits, uint64, at bit `places` int64."""
        values = self._windows[places >> 3] >> (places & 7).astype(np.uint64)
        return values & np.uint64((1 << bits) - 1)


def _write(bits: np.ndarray, places: np.ndarray, values: np.ndarray, width: int) -> None:
    steps = np.arange(width)
    bits[places[:, None] + steps] = values.astype(np.uint64)[:, None] >> steps.astype(np.uint64) & np.uint64(1)


def _words(layout: Layout, masks: Mapping[str, _Mask]) -> Iterator[tuple[Word, _Mask]]:
    for name, words in (("", layout.every), *((name, getattr(layout, name)) for name in ("erased", "mixed", "cut"))):
        for word in words:
            yield word, masks[name] if name else None


def _flags_of(views: Views, per_image: int) -> dict[str, np.ndarray]:
    columns = {"erased": views.erased > 0, "mixed": views.mixed > UNMIXED, "cut": views.mixed == CUTMIX}
    return {name: column.reshape(-1, per_image) for name, column in columns.items()}


def _masks(policy: ViewPolicy, flags: Mapping[str, np.ndarray], rows: int) -> dict[str, np.ndarray]:
    """Which views are erased, mixed and cut, bool [rows, per_image]: by their flags, or as the policy says of all."""

    def mask(name: str, always: bool) -> np.ndarray:
        return flags[name] if name in flags else np.full((rows, policy.per_image), always)

    mixed = mask("mixed", False)
    return {
        "erased": mask("erased", policy.erase > 0),
        "mixed": mixed,
        "cut": mixed & mask("cut", _cut_share(policy) > 0),
    }


def _cut_share(policy: ViewPolicy) -> float:
    mix = policy.mix
    if mix is None or mix.cutmix is None:
        return 0.0
    return 1.0 if mix.mixup is None else mix.cutmix_share


def _row_bits(layout: Layout, masks: Mapping[str, _Mask], rows: int, per_image: int) -> np.ndarray:
    total = np.full(rows, per_image * len(layout.flags), np.int64)
    for word, mask in _words(layout, masks):
        total += _counts(mask, per_image) * word.bits
    return total


def _counts(mask: _Mask, per_image: int) -> np.ndarray | int:
    return per_image if mask is None else mask.sum(1)


def _places(offsets: np.ndarray, mask: _Mask, bits: int, per_image: int) -> np.ndarray:
    """The bit at which each view's number begins, int64 [rows * per_image]; of any value where it has none."""
    ranks = np.arange(per_image) if mask is None else np.cumsum(mask, 1) - 1
    return (offsets[:, None] + ranks * bits).reshape(-1)


def _joined(word: Word, views: Views) -> np.ndarray:
    number = np.zeros(len(views), np.uint64)
    for each in reversed(word.fields):
        column = getattr(views, each.name)
        column = (column if each.op is None else column[:, each.op]).astype(np.uint64)
        if (column >= each.steps).any():
            raise LabelError(f"'{each.name}' of a view is below {each.steps} under this policy, got {column.max()}")
        number = number * np.uint64(each.steps) + column
    return number


def _split(word: Word, numbers: np.ndarray, views: Views, rows: np.ndarray | slice) -> None:
    if (numbers >= word.limit).any():
        raise LabelError(f"the parameters of a view are out of range ({word.fields[0].name}): the shard was altered")
    for each in word.fields:
        column = getattr(views, each.name)
        column[rows if each.op is None else (rows, each.op)] = numbers % np.uint64(each.steps)
        numbers = numbers // np.uint64(each.steps)


def _set_flags(views: Views, masks: Mapping[str, np.ndarray], wanted: np.ndarray | slice) -> None:
    erased, mixed, cut = (masks[name].reshape(-1)[wanted] for name in ("erased", "mixed", "cut"))
    views.erased[:] = erased
    views.mixed[:] = np.where(cut, CUTMIX, np.where(mixed, MIXUP, UNMIXED))


def _within(chosen: np.ndarray, per_image: int) -> np.ndarray:
    chosen = np.asarray(chosen, np.int64)
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < per_image:
        raise LabelError(f"an image has the views 0 .. {per_image - 1}, view {chosen.max()} was asked for")
    return chosen


def _check_room(layout: Layout, lengths: np.ndarray, flat: np.ndarray, per_image: int) -> None:
    least = per_image * (len(layout.flags) + sum(word.bits for word in layout.every))
    if int(lengths.sum()) != len(flat) or (8 * lengths < least).any():
        raise LabelError(
            f"{per_image} views of a row take {-(-least // 8)} bytes or more, and rows of {int(lengths.sum())} bytes "
            f"came as {len(flat)}: the store was made with other views"
        )
