"""Which parameters the views of a policy have, how many steps each takes, and in which number of a row it is kept."""

import math
from dataclasses import dataclass

from kdcore.config.views import Mix, PadCrop, RandomResizedCrop, ViewPolicy

__all__ = ["COARSE_STEPS", "FINE_STEPS", "OPS", "PARTNER_BITS", "Field", "Layout", "Word", "layout_of"]

FINE_STEPS = 256
COARSE_STEPS = 64
PARTNER_BITS = 40
# A number is read with one shift of eight bytes, wherever it begins.
_WORD_BITS = 56

_SIGNED = (
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "saturation",
    "contrast",
    "sharpness",
)
_UNSIGNED = ("identity", "posterize", "solarize", "autocontrast", "equalize")
OPS: tuple[tuple[str, int], ...] = (
    *((name, 1) for name in _UNSIGNED),
    *((name, sign) for name in _SIGNED for sign in (1, -1)),
)
"""Name and sign of each operation of RandAugment; its place in here is its code."""


@dataclass(frozen=True)
class Field:
    """A parameter of a view: a whole number in 0 .. steps - 1. `op` is its place among the operations."""

    name: str
    steps: int
    op: int | None = None


@dataclass(frozen=True)
class Word:
    """Fields that are kept as one number of mixed radix, the first field lowest, in the fewest bits."""

    fields: tuple[Field, ...]

    @property
    def limit(self) -> int:
        """One more than the largest number."""
        return math.prod(each.steps for each in self.fields)

    @property
    def bits(self) -> int:
        """Bits of the number; at most 56."""
        return (self.limit - 1).bit_length()


@dataclass(frozen=True)
class Layout:
    """What a row keeps: flags of each view, then words of every view, of erased, of mixed and of cut ones."""

    flags: tuple[str, ...]
    """Of `erased`, `mixed` and `cut`, those that are not the same for all views."""
    every: tuple[Word, ...]
    erased: tuple[Word, ...]
    mixed: tuple[Word, ...]
    cut: tuple[Word, ...]
    num_ops: int

    def bits(self, erased: float, mixed: float, cut: float) -> float:
        """Bits of a view, when such shares of the views are erased, mixed, and cut."""
        groups = ((self.every, 1.0), (self.erased, erased), (self.mixed, mixed), (self.cut, cut))
        return len(self.flags) + sum(word.bits * share for words, share in groups for word in words)


def layout_of(policy: ViewPolicy) -> Layout:
    """The layout of a policy's rows."""
    num_ops = 0 if policy.rand_augment is None else policy.rand_augment.ops
    box = [Field("erase_area", COARSE_STEPS), Field("erase_ratio", COARSE_STEPS)]
    place = [Field("erase_x", COARSE_STEPS), Field("erase_y", COARSE_STEPS)]
    centre = [Field("cut_x", COARSE_STEPS), Field("cut_y", COARSE_STEPS)]
    mix = policy.mix
    return Layout(
        flags=(*_flags(policy.erase), *_mix_flags(mix)),
        every=_words([*_crop(policy), *_flip(policy), *_jitter(policy), *_ops(num_ops)]),
        erased=_words([*box, *place] if policy.erase else []),
        mixed=_words([Field("partner", 1 << PARTNER_BITS), Field("share", FINE_STEPS)] if mix else []),
        cut=_words(centre if mix and mix.cutmix else []),
        num_ops=num_ops,
    )


def _flags(erase: float) -> list[str]:
    return ["erased"] if 0 < erase < 1 else []


def _mix_flags(mix: Mix | None) -> list[str]:
    # A unit of one image has no partner, so that `mixed` is a flag even where its probability is one.
    return [] if mix is None else ["mixed", *(["cut"] if mix.mixup and mix.cutmix else [])]


def _crop(policy: ViewPolicy) -> list[Field]:
    if isinstance(policy.crop, RandomResizedCrop):
        box = [Field("area", FINE_STEPS), Field("ratio", COARSE_STEPS)]
        return [*box, Field("x", FINE_STEPS), Field("y", FINE_STEPS)]
    if isinstance(policy.crop, PadCrop):
        places = 2 * policy.crop.padding + 1
        return [Field("x", places), Field("y", places)]
    return []


def _flip(policy: ViewPolicy) -> list[Field]:
    return [Field("flip", 2)] if policy.flip else []


def _jitter(policy: ViewPolicy) -> list[Field]:
    jitter = policy.color_jitter
    names = ("brightness", "contrast", "saturation") if jitter else ()
    return [Field(name, COARSE_STEPS) for name in names if getattr(jitter, name)]


def _ops(num_ops: int) -> list[Field]:
    return [Field("ops", len(OPS), op) for op in range(num_ops)]


def _words(wanted: list[Field]) -> tuple[Word, ...]:
    """As few words as the order of the fields allows."""
    words: list[list[Field]] = [[]]
    for each in wanted:
        if Word((*words[-1], each)).bits > _WORD_BITS:
            words.append([])
        words[-1].append(each)
    return tuple(Word(tuple(word)) for word in words if word)
