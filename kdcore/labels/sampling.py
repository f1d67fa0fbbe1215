"""Random choices that depend on a label alone, and the draws of classes that both unbiased codecs make.

Every random number of a label is a hash of its sample's key and its position, so that it does not matter which
process, batch or window made the label.
"""

import numpy as np
import torch
from torch import Tensor

from kdcore.identity import mix
from kdcore.labels.checks import check_maxima, row_chunks

__all__ = ["draw_counts", "label_seeds", "uniforms"]

# Cumulative sums run over blocks of classes, and then only inside the blocks that were hit: a sum over the whole
# vocabulary in float64 costs more than the softmax.
_BLOCK = 128
# What a processor's cache holds: larger pieces wait for memory.
_CACHED_ELEMENTS = 1 << 19
# Elsewhere each piece costs a few round trips to the host, so that only room counts.
_DEVICE_ELEMENTS = 1 << 27
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def label_seeds(key: bytes, num_labels: int, seed: int = 0) -> np.ndarray:
    """One seed for each label of a sample, uint64 [num_labels], from the store's seed and the sample's 16-byte key."""
    low, high = np.frombuffer(key, np.dtype("<u8"))
    with np.errstate(over="ignore"):
        start = mix(np.array([seed], np.uint64) + _GOLDEN) + high
        return mix(mix(np.arange(num_labels, dtype=np.uint64) + start) ^ low)


def uniforms(seeds: np.ndarray, num: int) -> np.ndarray:
    """`num` numbers in [0, 1) for each seed, float64 [N, num]."""
    with np.errstate(over="ignore"):
        steps = _GOLDEN * np.arange(1, num + 1, dtype=np.uint64)
        return (mix(seeds[:, None] + steps) >> np.uint64(11)) * 2.0**-53


def draw_counts(logits: Tensor, points: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """How many of a label's points fall on each class, where class i owns a piece of [0, 1) of length p_i.

    `logits` [N, V] float, `points` float64 [N, D] in [0, 1), rising in each row. Returns the classes hit, `ids`
    int32 [E], rising in each label, their `counts` uint16 [E] and `entries` int64 [N], classes hit of each label; and,
    since it falls out of the sums, the log-sum-exp of each row, float64 [N]. LabelError for logits that are not finite.
    """
    work = logits.shape[1] + min(points.shape[1] * _BLOCK, logits.shape[1])
    room = _CACHED_ELEMENTS if logits.device.type == "cpu" else _DEVICE_ELEMENTS
    parts = [_hit(logits, points, rows) for rows in row_chunks(logits.shape[0], work, room)]
    hit = np.concatenate([np.empty((0, points.shape[1]), np.int32), *(part[0] for part in parts)])
    first = np.ones(hit.shape, bool)
    first[:, 1:] = hit[:, 1:] != hit[:, :-1]
    starts = np.flatnonzero(first)
    counts = np.diff(np.append(starts, hit.size))
    normalisers = np.concatenate([np.empty(0), *(part[1] for part in parts)])
    return {"ids": hit[first], "counts": counts.astype(np.uint16), "entries": first.sum(1)}, normalisers


def _hit(all_logits: Tensor, all_points: np.ndarray, rows: slice) -> tuple[np.ndarray, np.ndarray]:
    """The class that each point of some rows falls on, int32 [n, D], and the log-sum-exp of each, float64 [n]."""
    logits, points = all_logits[rows].float(), all_points[rows]
    largest = logits.amax(1, keepdim=True)
    check_maxima(largest[:, 0], f"the batch to encode, counted from row {rows.start},")
    masses = (logits - largest).exp_()
    where = torch.from_numpy(points).to(logits.device)
    if points.shape[1] * _BLOCK >= logits.shape[1]:  # so many points that every block would be hit anyway
        ends = masses.double().cumsum(1)
        hit = torch.searchsorted(ends, _below(where * ends[:, -1:], ends[:, -1:]), right=True)
    else:
        hit, ends = _hit_in_blocks(masses, where)
    normalisers = largest[:, 0].double() + ends[:, -1].log()
    return hit.to(torch.int32).cpu().numpy(), normalisers.cpu().numpy()


def _hit_in_blocks(masses: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Classes hit [n, D], and the cumulative masses of the blocks, float64 [n, blocks]."""
    num_labels, num_classes = masses.shape
    num_blocks = -(-num_classes // _BLOCK)
    if num_classes % _BLOCK:
        masses = torch.nn.functional.pad(masses, (0, num_blocks * _BLOCK - num_classes))
    masses = masses.view(num_labels, num_blocks, _BLOCK)
    ends = masses.sum(2).double().cumsum(1)
    where = _below(where * ends[:, -1:], ends[:, -1:])
    block = torch.searchsorted(ends, where, right=True)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = masses.gather(1, block[:, :, None].expand(-1, -1, _BLOCK)).double().cumsum(2)
    # A block's float32 sum and its float64 sum differ in the last bits: no point may leave its block.
    place = _below(where - before, inside[:, :, -1])
    offset = torch.searchsorted(inside, place[:, :, None].contiguous(), right=True).squeeze(2)
    return block * _BLOCK + offset, ends


def _below(values: Tensor, limit: Tensor) -> Tensor:
    """`values`, where they reach `limit` the largest number below it."""
    return torch.minimum(values, torch.nextafter(limit, torch.zeros_like(limit)))
