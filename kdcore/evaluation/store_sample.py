"""Rows of a label store as a person, or a script, reads them."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kdcore.errors import StoreError, TokenizerMismatch
from kdcore.identity import digest_tokenizer
from kdcore.labels import FeatureLabels, SoftLabels, SpanLabels
from kdcore.store import LabelStore, ranked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_store_tokenizer", "sample_row"]


def check_store_tokenizer(store: LabelStore, tokenizer: "PreTrainedTokenizerBase") -> None:
    """TokenizerMismatch unless the store's tokens are this tokenizer's."""
    wanted, found = store.identity.get("tokenizer"), digest_tokenizer(tokenizer)
    if wanted is None:
        raise TokenizerMismatch(f"{store.path} holds labels of kind '{store.kind}', without tokens: no --tokenizer")
    if wanted != found:
        raise TokenizerMismatch(
            f"the tokens of {store.path} are of the tokenizer with digest {wanted}, '{tokenizer.name_or_path}' has "
            f"{found}: give --tokenizer the teacher's own, in the version that labelled"
        )


def sample_row(
    store: LabelStore,
    row: int,
    count: int,
    top: int,
    start: int = 0,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> dict[str, Any]:
    """One row as JSON: labels `start` .. `start + count - 1`, each with its `top` classes; StoreError if there is none.

    A label of a text has `position`, `token` (the last one it has seen), `next` (the one it is of) and
    `teacher_log_prob` of that one; `entries` and `other`, the weight of all classes that are not shown. With a
    tokenizer every id has a `text`. A label of a view has `view`, those of its parameters that are not zero. Features
    have the norm and first channels of each layer instead of entries; spans `bytes` and `boundary`, a probability.
    """
    if not 0 <= row < store.num_rows:
        raise StoreError(f"{store.path} has rows 0 to {store.num_rows - 1}, not {row}")
    total = int(store.num_labels_per_row()[row])
    span = min(start, total), min(start + count, total)
    labels = store.labels(row, *span)
    if isinstance(labels, SpanLabels):
        shown = _spans(labels)
    else:
        shown = _features(labels) if isinstance(labels, FeatureLabels) else _entries(labels, top)
    if store.kind == "text":
        _add_tokens(store, row, span, shown)
    if store.view_spec is not None:
        views = store.views_of([row])
        for number, label in zip(range(*span), shown, strict=True):
            label["view"] = views.view(number).named()
    if tokenizer is not None:
        _add_texts(shown, tokenizer)
    found: dict[str, Any] = {
        "row": row,
        "key": store.key(row).hex(),
        "name": store.name(row),
        "occurrences": int(store.occurrences()[row]),
        "num_labels": total,
    }
    if store.kind != "text":
        target = int(store.targets()[row])
        found["target"] = None if target < 0 else target
    return {**found, "labels": shown}


def _entries(labels: SoftLabels, top: int) -> list[dict[str, Any]]:
    found = ranked(labels, top)
    shown: list[dict[str, Any]] = []
    for ids, log_probs, known in zip(found.ids.tolist(), found.log_probs.tolist(), found.known.tolist(), strict=True):
        entries = [
            {"id": index, "weight": math.exp(value), "log_prob": value}
            for index, value, there in zip(ids, log_probs, known, strict=True)
            if there
        ]
        shown.append({"entries": entries, "other": max(0.0, 1 - sum(entry["weight"] for entry in entries))})
    return shown


def _features(labels: FeatureLabels) -> list[dict[str, Any]]:
    layers = {name: labels.layer(name) for name, _ in labels.layers}
    return [
        {
            "features": {
                name: {"norm": float(torch.linalg.vector_norm(values[number])), "first": values[number, :8].tolist()}
                for name, values in layers.items()
            }
        }
        for number in range(labels.num_labels)
    ]


def _spans(labels: SpanLabels) -> list[dict[str, Any]]:
    values = labels.begins.tolist(), labels.ends.tolist(), labels.boundary_log_probs.exp().tolist()
    return [{"bytes": [begin, end], "boundary": mass} for begin, end, mass in zip(*values, strict=True)]


def _add_tokens(store: LabelStore, row: int, span: tuple[int, int], shown: list[dict[str, Any]]) -> None:
    tokens, log_probs = store.tokens(row), store.token_log_probs(row, *span)
    positions = store.label_positions(row)[slice(*span)].tolist()
    for position, value, label in zip(positions, log_probs.tolist(), shown, strict=True):
        label["position"], label["token"], label["next"] = position, int(tokens[position]), int(tokens[position + 1])
        label["teacher_log_prob"] = value if np.isfinite(value) else None


def _add_texts(shown: list[dict[str, Any]], tokenizer: "PreTrainedTokenizerBase") -> None:
    for label in shown:
        for name in ("token", "next"):
            label[f"{name}_text"] = str(tokenizer.decode([label[name]]))
        for entry in label.get("entries", ()):
            entry["text"] = str(tokenizer.decode([entry["id"]]))
