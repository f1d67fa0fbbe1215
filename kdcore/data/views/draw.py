"""The parameters of a view, as a function of (policy, the image's key, the view's number, the keys of its unit).

Every number is a hash: there is no generator, hence no state, and no draw depends on another or on the batch.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from kdcore.config.views import Mix, ViewPolicy
from kdcore.data.views.beta import beta_edges
from kdcore.data.views.partners import as_keys, prefixes, unambiguous
from kdcore.errors import DataError
from kdcore.identity import mix_next
from kdcore.labels.views import CUTMIX, MIXUP, UNMIXED, Views, layout_of
from kdcore.labels.views.fields import FINE_STEPS, OPS, Field, Word

__all__ = ["draw_views", "views_of"]

# What each draw is hashed with. A number is never used for anything else, so that a setting more or less in a policy
# leaves the other draws as they were.
_DRAWS = {
    **{"area": 0, "ratio": 1, "x": 2, "y": 3, "flip": 4, "brightness": 5, "contrast": 6, "saturation": 7},
    **{"erased": 8, "erase_area": 9, "erase_ratio": 10, "erase_x": 11, "erase_y": 12},
    **{"mixed": 13, "cut": 14, "share": 15, "partner": 16, "cut_x": 17, "cut_y": 18, "op": 19, "sign": 20},
}
_REPEATS = 64  # draws of one name for one view: operations


def draw_views(
    policy: ViewPolicy,
    keys: Sequence[bytes] | np.ndarray,
    numbers: np.ndarray | range,
    unit_keys: Sequence[bytes] | np.ndarray = (),
) -> Views:
    """View `numbers[i]` of the image with key `keys[i]` (bytes, or uint8 [n, 16]), for each i.

    `unit_keys` are those of the work unit, in any order; only a policy with `mix` looks at them. A view whose unit has
    no other image is not mixed. DataError when there are not as many numbers as keys.
    """
    images, views = as_keys(keys), np.asarray(numbers, np.int64)
    if views.shape != (len(images),):
        raise DataError(f"a view has a key and a number: got {len(images)} keys and numbers of shape {views.shape}")
    hashes = _Hashes(policy.seed, images, views)
    layout = layout_of(policy)
    result = Views.zeros(len(views), layout.num_ops)
    for each in _fields(layout.every):
        _set(result, each, policy, hashes)
    result.erased[:] = hashes.chance("erased", policy.erase)
    for each in _fields(layout.erased):
        getattr(result, each.name)[:] = hashes.steps(each.name, each.steps) * result.erased
    if policy.mix:
        _mix(result, policy.mix, hashes, prefixes(images), unambiguous(as_keys(unit_keys)))
    for each in _fields(layout.cut):
        getattr(result, each.name)[:] = hashes.steps(each.name, each.steps) * (result.mixed == CUTMIX)
    return result


def views_of(
    policy: ViewPolicy, keys: Sequence[bytes] | np.ndarray, unit_keys: Sequence[bytes] | np.ndarray = ()
) -> Views:
    """All `per_image` views of each image, one image after the other: the rows of `pack_views`."""
    images = as_keys(keys)
    numbers = np.tile(np.arange(policy.per_image), len(images))
    return draw_views(policy, np.repeat(images, policy.per_image, axis=0), numbers, unit_keys)


class _Hashes:
    """The random numbers of n views: one state each, from which every draw is one more step of the hash."""

    def __init__(self, seed: int, keys: np.ndarray, numbers: np.ndarray) -> None:
        halves = np.ascontiguousarray(keys).view("<u8").astype(np.uint64)
        state = mix_next(np.full(len(keys), seed, np.uint64))
        for part in (halves[:, 0], halves[:, 1], numbers.astype(np.uint64)):
            state = mix_next(state ^ part)
        self._state = state

    def bits(self, name: str, repeat: int = 0) -> np.ndarray:
        """64 random bits a view, uint64 [n]."""
        return mix_next(self._state ^ np.uint64(1 + _DRAWS[name] * _REPEATS + repeat))

    def steps(self, name: str, steps: int | np.ndarray, repeat: int = 0) -> np.ndarray:
        """A whole number below `steps` (at most 2^31), all as likely to within 2^-32, int64 [n]."""
        high = self.bits(name, repeat) >> np.uint64(32)
        return (high * np.asarray(steps, np.uint64) >> np.uint64(32)).astype(np.int64)

    def uniform(self, name: str) -> np.ndarray:
        """A number in [0, 1), float64 [n]."""
        return (self.bits(name) >> np.uint64(11)) * 2.0**-53

    def chance(self, name: str, probability: float) -> np.ndarray:
        """True with a probability, bool [n]."""
        return self.uniform(name) < probability


def _fields(words: tuple[Word, ...]) -> list[Field]:
    return [each for word in words for each in word.fields]


def _set(result: Views, each: Field, policy: ViewPolicy, hashes: _Hashes) -> None:
    if each.name == "flip":
        result.flip[:] = hashes.chance("flip", policy.flip)
    elif each.op is not None:
        result.ops[:, each.op] = _operation(hashes, each.op)
    else:
        getattr(result, each.name)[:] = hashes.steps(each.name, each.steps)


@lru_cache(maxsize=1)
def _codes() -> np.ndarray:
    """The codes of each operation, with sign 1 and -1 (the same code where it has no sign), uint8 [operations, 2]."""
    names = list(dict.fromkeys(name for name, _ in OPS))
    table = {name: [code for code, (other, _) in enumerate(OPS) if other == name] for name in names}
    return np.array([[codes[0], codes[-1]] for codes in table.values()], np.uint8)


def _operation(hashes: _Hashes, place: int) -> np.ndarray:
    # Operations are as likely as each other, and then their signs: a code without a sign is twice as likely.
    codes = _codes()
    return codes[hashes.steps("op", len(codes), place), hashes.steps("sign", 2, place)]


def _mix(result: Views, mix: Mix, hashes: _Hashes, own: np.ndarray, unit: np.ndarray) -> None:
    """Kind, partner and share of the mixed views; all others keep their zeros."""
    if not len(unit):
        return
    place = np.searchsorted(unit, own)
    known = unit[np.minimum(place, len(unit) - 1)] == own
    others = len(unit) - known
    # Of the others: those before one's own place, and those after it one further.
    partner = hashes.steps("partner", others)
    partner += known & (partner >= place)
    mixed = hashes.chance("mixed", mix.probability) & (others > 0)
    cut = hashes.chance("cut", mix.cutmix_share) if mix.mixup and mix.cutmix else np.full(len(own), bool(mix.cutmix))
    cut &= mixed
    result.mixed[:] = np.where(cut, CUTMIX, np.where(mixed, MIXUP, UNMIXED))
    result.partner[:] = np.where(mixed, unit[np.minimum(partner, len(unit) - 1)], 0)
    uniform = hashes.uniform("share")
    for alpha, chosen in ((mix.mixup, mixed & ~cut), (mix.cutmix, cut)):
        if alpha is not None:
            result.share[chosen] = np.searchsorted(beta_edges(alpha, FINE_STEPS), uniform[chosen], side="right")
