"""DistillKit's records as the columns of codec `topk`, and what was lost before they came here."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from kdcore.errors import StoreError
from kdcore.labels import TopKCodec
from kdcore.store.columns import list_offsets, list_values
from kdcore.store.distillkit.columns import DistillKitConfig, decode_log_probs, unpack_bits
from kdcore.store.schema import TOKEN_LOG_PROBS
from kdcore.store.shard import Shard
from kdcore.store.storage.place import Place
from kdcore.store.writer import Receipt

__all__ = ["label_columns", "measure"]

_LABELS_AT_ONCE = 1024
_MEASURED_LABELS = 1_000_000
# A curve that is fitted to log-probabilities misses the sum a little, nonsense by far more; and the k most probable of
# V classes have at least k / V. Not every wrong configuration is caught: bfloat16 read as float16 falls as well.
_MOST_MASS, _LEAST_SHARE = 2.0, 0.5
_MOST_RISE = 0.02
_REMEDY = "the configuration is not the one of this capture (--config), or the file was altered"


def label_columns(
    config: DistillKitConfig, codec: TopKCodec, values: np.ndarray, ids: np.ndarray, tokens: np.ndarray, where: str
) -> dict[str, np.ndarray]:
    """The columns of a document of T `tokens`, from its records uint8 [T - 1, bytes]; StoreError names `where`."""
    if len(values) and (values.shape[1], ids.shape[1]) != (config.value_bytes, config.id_bytes):
        raise StoreError(
            f"{where} has records of {values.shape[1]} bytes and {ids.shape[1]} bytes of ids, the configuration makes "
            f"{config.value_bytes} and {config.id_bytes}: it is not the one of this capture; set --config"
        )
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < codec.num_classes:
        raise StoreError(f"{where} has token {tokens.max()}, the vocabulary {codec.num_classes}: another tokenizer's?")
    widths = {**codec.widths(), TOKEN_LOG_PROBS: 1}
    parts = [{name: np.empty((0, width)) for name, width in widths.items()}]
    for start in range(0, len(values), _LABELS_AT_ONCE):
        part = slice(start, start + _LABELS_AT_ONCE)
        found = unpack_bits(ids[part], config.id_bits, config.k)
        log_probs = decode_log_probs(config, values[part])
        _check_curve(config, codec, log_probs, where)
        parts.append(_labels(codec, found, log_probs, tokens[1:][part], where))
    columns = {name: np.concatenate([part[name] for part in parts]).ravel() for name in widths}
    return {name: column.astype(codec.id_dtype if name == "ids" else np.float16) for name, column in columns.items()}


def _labels(
    codec: TopKCodec, ids: np.ndarray, log_probs: np.ndarray, targets: np.ndarray, where: str
) -> dict[str, np.ndarray]:
    """ids and log_probs [N, k] into columns [N, width]; entries by falling mass, cells that sum to one."""
    _check_ids(codec, ids, ~np.isneginf(log_probs), where)
    order = np.argsort(-log_probs, axis=1, kind="stable")[:, : codec.k]
    ids, log_probs = np.take_along_axis(ids, order, 1), np.take_along_axis(log_probs, order, 1)
    mass = np.exp(log_probs).sum(1)
    log_probs = log_probs - np.log(np.maximum(mass, 1))[:, None]
    with np.errstate(divide="ignore"):
        tail = np.log(np.maximum(0, 1 - mass))
        others = tail - np.log(max(1, codec.num_classes - codec.k))
    hit = (ids == targets[:, None]) & ~np.isneginf(log_probs)
    of_target = np.where(hit.any(1), np.take_along_axis(log_probs, hit.argmax(1)[:, None], 1)[:, 0], others)
    return {
        "ids": _distinct(codec, ids, np.isneginf(log_probs)),
        "log_probs": log_probs,
        "tail_log_prob": tail[:, None],
        TOKEN_LOG_PROBS: of_target[:, None],
    }


def _check_curve(config: DistillKitConfig, codec: TopKCodec, log_probs: np.ndarray, where: str) -> None:
    """StoreError unless these can be the k largest log-probabilities of something, as far as numbers tell."""
    with np.errstate(over="ignore", invalid="ignore"):
        mass = np.exp(log_probs).sum(1)
        rise = np.diff(log_probs[:, : config.exact_k], axis=1)
    if not (mass <= _MOST_MASS).all() or (mass < _LEAST_SHARE * codec.k / codec.num_classes).any():  # NaN too
        found = f"total probability {mass.min():.3g} to {mass.max():.3g}"
    elif (rise > _MOST_RISE).any():
        found = f"exact log-probabilities that rise by {np.nanmax(rise):.3g}, where they are sorted to fall"
    else:
        return
    raise StoreError(f"{where} has labels of {found}: {_REMEDY}")


def _check_ids(codec: TopKCodec, ids: np.ndarray, real: np.ndarray, where: str) -> None:
    if ids[real].max(initial=0) >= codec.num_classes:
        raise StoreError(
            f"{where} has class {ids[real].max()}, the vocabulary {codec.num_classes}: give the capture's tokenizer, "
            f"or the classes of a padded model with --vocabulary; else {_REMEDY}"
        )
    ordered = np.sort(np.where(real, ids, -1 - np.arange(ids.shape[1])), axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise StoreError(f"{where} has a label that names a class twice: {_REMEDY}")


def _distinct(codec: TopKCodec, ids: np.ndarray, gone: np.ndarray) -> np.ndarray:
    """Entries of probability zero may hold any id there; here they get ids that their label does not use."""
    ids = ids.copy()
    for row in np.flatnonzero(gone.any(1)):
        free = np.setdiff1d(np.arange(min(codec.num_classes, 2 * codec.k)), ids[row][~gone[row]])
        ids[row, gone[row]] = free[: int(gone[row].sum())]
    return ids


def measure(place: Place, receipts: Sequence[Receipt], codec: TopKCodec, schema: pa.Schema) -> dict[str, Any]:
    """Figures of the finished shards, up to a million labels: mass kept, labels without a tail, tokens outside."""
    labels, sums = 0, np.zeros(4)
    for batch in _batches(place, receipts, schema):
        if labels >= _MEASURED_LABELS:
            break
        tail = list_values(batch, "tail_log_prob").astype(np.float64)
        empty = np.isneginf(list_values(batch, "log_probs")).sum()
        outside = ~(list_values(batch, "ids").reshape(-1, codec.k) == _targets(batch)[:, None]).any(1)
        sums += [np.exp(tail).sum(), np.isneginf(tail).sum(), empty, outside.sum()]
        labels += len(tail)
    shares = (sums / max(1, labels)).tolist()
    return {
        "measured_labels": labels,
        "mass_kept": 1 - shares[0],
        "labels_without_tail": int(sums[1]),
        "entries_of_no_mass": int(sums[2]),
        "tokens_outside_the_entries": shares[3],
    }


def _targets(batch: pa.RecordBatch) -> np.ndarray:
    """The tokens that follow another one in their document."""
    offsets = list_offsets(batch, "tokens")
    follows = np.ones(len(list_values(batch, "tokens")), bool)
    follows[offsets[:-1][np.diff(offsets) > 0]] = False
    return list_values(batch, "tokens")[follows]


def _batches(place: Place, receipts: Sequence[Receipt], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for receipt in receipts:
        yield from Shard(place, receipt, schema, keep=False).batches
