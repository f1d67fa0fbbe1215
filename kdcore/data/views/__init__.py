"""Views of images: drawn, stored with their labels, and rendered anew, the same pixels everywhere.

    draw_views(policy, keys, numbers, unit_keys) -> Views
        view numbers[i] of the image with key keys[i]; one draw for each pair. `views_of` draws all of each image.
    pack_views(policy, views) -> bytes uint8, lengths int64 [rows]
        rows of policy.per_image views: one row (one value of a list<uint8> column) an image
    unpack_views(policy, flat, lengths, chosen=None) -> Views
        all views of the rows, or of each row the one that chosen [rows] names
    apply_views(policy, images, views, partners, mean, std, size) -> float32 [n, C, size, size]
        images: decoded uint8 [H, W, C], of any size; partners: such an image for each mixed view, else None
    partner_rows(views, keys) -> int64 [n]
        which of the unit's keys is each view's partner, -1 of views that are not mixed

A view means pixels only together with its policy, data.size, mean and std: all of them belong in the identity of a
store. Drawing and rendering are whole-number arithmetic (but for resizing, which torch does in whole numbers too), so
that no batch, thread, process or device changes a pixel.
"""

from kdcore.config.views import ViewPolicy
from kdcore.data.views.apply import apply_views, render_views
from kdcore.data.views.boxes import own_shares
from kdcore.data.views.draw import draw_views, views_of
from kdcore.data.views.partners import partner_rows
from kdcore.labels.views import CUTMIX, MIXUP, UNMIXED, View, Views, bytes_per_view, pack_views, unpack_views

__all__ = [
    "CUTMIX",
    "MIXUP",
    "UNMIXED",
    "View",
    "ViewPolicy",
    "Views",
    "apply_views",
    "bytes_per_view",
    "draw_views",
    "own_shares",
    "pack_views",
    "partner_rows",
    "render_views",
    "unpack_views",
    "views_of",
]
