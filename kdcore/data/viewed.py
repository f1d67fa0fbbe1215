"""From a recipe's `data` to what its views are, and to their pixels; and a corpus read without them."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from kdcore.config.data import DataConfig, DigitsData, ImageData, SynthesisedImagesData
from kdcore.data.views import Views, apply_views
from kdcore.labels.views.spec import ViewSpec

__all__ = ["render", "view_spec", "without_views"]

_DIGITS = (8, (0.5,), (0.5,))


def view_spec(data: DataConfig) -> ViewSpec | None:
    """What the views of `data.views` are; None without them."""
    if isinstance(data, DigitsData):
        return None if data.views is None else ViewSpec(data.views, *_DIGITS)
    if isinstance(data, SynthesisedImagesData):
        return view_spec(data.as_files())
    if not isinstance(data, ImageData) or data.views is None:
        return None
    return ViewSpec(data.views, data.size, data.mean, data.std)


def without_views(data: DataConfig) -> DataConfig:
    """The same corpus, whose images are read whole, resized and normalised: what quality is measured on."""
    return data if view_spec(data) is None else data.model_copy(update={"views": None})


def render(spec: ViewSpec, images: Sequence[np.ndarray], views: Views, partners: Sequence[np.ndarray | None]) -> Tensor:
    """Normalised pixels float32 [n, C, size, size] of `views[i]` of the decoded `images[i]`; see `apply_views`."""
    return apply_views(spec.policy, images, views, partners, spec.mean, spec.std, spec.size)
