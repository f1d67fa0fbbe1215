"""The parameters of views, and the bytes that a row of a store keeps of them.

    ViewPolicy        what is drawn (kdcore.config.views); with data.size, mean and std it says what a view means
    View, Views       the parameters of one view, and of many (a struct of arrays)
    pack_views        rows of `per_image` views each -> bytes and their lengths
    unpack_views      bytes and lengths -> all views of the rows, or one chosen view of each row

Drawing and rendering them is `kdcore.data.views`.
"""

from kdcore.labels.views.fields import layout_of
from kdcore.labels.views.packing import bytes_per_view, pack_views, unpack_views
from kdcore.labels.views.parameters import CUTMIX, MIXUP, UNMIXED, View, Views

__all__ = [
    "CUTMIX",
    "MIXUP",
    "UNMIXED",
    "View",
    "Views",
    "bytes_per_view",
    "layout_of",
    "pack_views",
    "unpack_views",
]
