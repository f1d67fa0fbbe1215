"""Which pixels a student sees of an image: the whole of it, or a view that a store has a label of, or that is drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from kdcore.data.viewed import render
from kdcore.data.views import UNMIXED, Views, draw_views, own_shares
from kdcore.data.views.partners import as_keys, prefixes
from kdcore.errors import IdentityMismatch, MissingLabels
from kdcore.labels.views.fields import PARTNER_BITS
from kdcore.labels.views.spec import ViewSpec

if TYPE_CHECKING:
    from kdcore.training.stored_labels import Labelled

__all__ = ["DrawnViews", "Partners", "StoredViews", "ViewedPixels", "check_views"]

Keys = Sequence[bytes]
"""Of samples, 16 bytes each."""


class ViewSource(Protocol):
    """Gives the parameters of views."""

    def of(self, numbers: np.ndarray, views: np.ndarray) -> Views:
        """View `views[i]` int64 [n] of sample `numbers[i]` int64 [n]."""
        ...


@dataclass(frozen=True)
class StoredViews:
    """Views that labels belong to; `rows` are those of the samples in `store`."""

    store: "Labelled"
    rows: np.ndarray

    def of(self, numbers: np.ndarray, views: np.ndarray) -> Views:
        """See ViewSource."""
        return self.store.views_of(self.rows[numbers], self.stored(views))

    def stored(self, views: np.ndarray) -> np.ndarray:
        """The stored views for `views` int64 [n]: where labels change with the epoch that is an epoch, each in turn."""
        spec = self.store.view_spec
        return views % spec.per_image if spec is not None and self.store.changes else views


class DrawnViews:
    """The views that a labelling job would draw, or any further one; `units` int64 [N], rising: the samples' units."""

    def __init__(self, spec: ViewSpec, keys: Keys, units: np.ndarray) -> None:
        self._policy, self._keys, self._units = spec.policy, as_keys(keys), units
        self._first = np.searchsorted(units, np.arange(units[-1] + 2))

    def of(self, numbers: np.ndarray, views: np.ndarray) -> Views:
        """See ViewSource."""
        if self._policy.mix is None or not len(numbers):
            return draw_views(self._policy, self._keys[numbers], views)
        # Partners come from the image's own unit.
        units = self._units[numbers]
        places = [np.flatnonzero(units == unit) for unit in np.unique(units)]
        parts = [
            draw_views(self._policy, self._keys[numbers[here]], views[here], self._unit(int(units[here[0]])))
            for here in places
        ]
        return Views.concat(parts)[np.argsort(np.concatenate(places), kind="stable")]

    def _unit(self, unit: int) -> np.ndarray:
        """The keys of a work unit."""
        return self._keys[self._first[unit] : self._first[unit + 1]]


class Partners:
    """Finds the sample that a view is mixed with, by the first bits of its key."""

    def __init__(self, keys: Keys, units: np.ndarray) -> None:
        self._prefixes, self._units = prefixes(as_keys(keys)), units
        self._order = np.argsort(self._prefixes, kind="stable")
        self._sorted = self._prefixes[self._order]

    def of(self, views: Views, numbers: np.ndarray) -> np.ndarray:
        """The partner of each view of samples `numbers`, int64 [n]; -1 of one that is not mixed.

        Of several samples with these bits it is the one in the image's own unit. MissingLabels where there is none.
        """
        found = np.full(len(views), -1, np.int64)
        for place in np.flatnonzero(views.mixed != UNMIXED).tolist():
            found[place] = self._one(views.partner[place], int(numbers[place]))
        return found

    def _one(self, prefix: np.uint64, number: int) -> int:
        first, stop = np.searchsorted(self._sorted, prefix), np.searchsorted(self._sorted, prefix, side="right")
        candidates = self._order[first:stop]
        if len(candidates) > 1:
            candidates = candidates[self._units[candidates] == self._units[number]]
        if len(candidates) != 1:
            raise MissingLabels(
                f"a view is mixed with one other image of the data, but {len(candidates)} have a key that begins with "
                f"{int(prefix):0{PARTNER_BITS // 4}x}: the data changed since it was labelled, or data.max_samples "
                "leaves partners out. Set them back, or label into a new path (labels.path)"
            )
        return int(candidates[0])


@dataclass(frozen=True)
class ViewedPixels:
    """Renders views of samples, whose decoded images and classes `image` and `target` give by number.

    `expect` is told of those that views are mixed with before they are asked for.
    """

    spec: ViewSpec
    source: ViewSource
    partners: Partners
    image: Callable[[int], np.ndarray]
    target: Callable[[int], int]
    expect: Callable[[np.ndarray], None]

    def of(self, numbers: np.ndarray, views: np.ndarray) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Pixels float32 [n, C, H, W]; of a policy that mixes, the partners' classes int64 [n] and `shares` [n]."""
        drawn = self.source.of(numbers, views)
        found = self.partners.of(drawn, numbers)
        self.expect(found[found >= 0])
        images = [self.image(number) for number in numbers.tolist()]
        pixels = render(
            self.spec, images, drawn, [None if other < 0 else self.image(other) for other in found.tolist()]
        )
        if self.spec.policy.mix is None:
            return pixels, None, None
        other = [self.target(number) for number in np.where(found < 0, numbers, found).tolist()]
        shares = torch.from_numpy(own_shares(drawn, self.spec.size).astype(np.float32))
        return pixels, torch.tensor(other, dtype=torch.int64), shares


def check_views(store: "Labelled", spec: ViewSpec | None) -> None:
    """IdentityMismatch unless the store's labels are of the views that a recipe asks for."""
    if store.view_spec == spec:
        return
    stored, wanted = (None if each is None else each.to_json() for each in (store.view_spec, spec))
    reason = (
        "What a teacher says of a whole image is not what it says of a crop or a mirror image of it"
        if stored is None
        else "Labels are of the pixels that were rendered then"
    )
    raise IdentityMismatch(
        f"{store.described} has labels of data.views {stored}, the recipe has {wanted}. {reason}: set data.views "
        "(size, mean and std too) to the store's, or label into a new path (labels.path)"
    )
