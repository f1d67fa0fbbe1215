"""Quality of a causal language model on held-out documents, alone and beside its teacher."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from kdcore.data.document import TextDocument
from kdcore.data.tokenizer import encode_document, valid_vocabulary
from kdcore.data.windows import Window, windows
from kdcore.errors import DataError, TrainingError
from kdcore.evaluation.calibration import Calibration

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["evaluate_lm", "heldout_tokens"]

_LOGITS_AT_ONCE = 2**26  # float32 logits of one forward pass: 256 MB
_SHARE_OF_ONE_DOCUMENT = 8

Piece = tuple[np.ndarray, Window]


def heldout_tokens(
    tokenizer: PreTrainedTokenizerBase, docs: Iterable[TextDocument], max_tokens: int
) -> list[np.ndarray]:
    """Token ids int64 [T] of the documents in order, about `max_tokens` labels in all.

    A document gives its beginning only, at most an eighth of the total, so that no single one is the measure.
    Raises DataError when nothing is left to predict.
    """
    most = max(2, math.ceil(max_tokens / _SHARE_OF_ONE_DOCUMENT))
    kept: list[np.ndarray] = []
    left = max_tokens
    for doc in docs:
        tokens = encode_document(tokenizer, doc.text)[: min(most, left) + 1]
        if len(tokens) > 1:
            kept.append(tokens)
            left -= len(tokens) - 1
        if left <= 0:
            break
    if not kept:
        raise DataError("the held-out split has no document with a token to predict; raise data.heldout_fraction")
    return kept


def evaluate_lm(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    docs: Sequence[np.ndarray],
    teacher: PreTrainedModel | None = None,
    *,
    batch: int = 16,
    bins: int = 15,
    context: int = 256,
) -> dict[str, float]:
    """Loss (nats), perplexity, accuracy, ece and tokens over `docs` (token ids int64 [T] each).

    With a teacher of the same tokenizer also `agreement` (share of equal top-1) and `kl` (teacher to student,
    nats). Longer documents are read in windows of `context` tokens that overlap by a quarter.
    """
    vocab = valid_vocabulary(tokenizer)
    sums = {"loss": 0.0, "accuracy": 0.0, "agreement": 0.0, "kl": 0.0}
    calibration, count = Calibration(bins), 0
    rows = max(1, min(batch, _LOGITS_AT_ONCE // (context * vocab)))
    with torch.inference_mode():
        for pieces in _batches(docs, context, rows):
            log_probs, targets = _log_probs(model, pieces, vocab), _targets(pieces)
            confidence, top = log_probs.max(-1)
            sums["loss"] -= float(log_probs.gather(1, targets[:, None]).double().sum())
            sums["accuracy"] += int((top == targets).sum())
            calibration.update(confidence.exp(), top == targets)
            count += len(targets)
            if teacher is not None:
                expected = _log_probs(teacher, pieces, vocab)
                sums["agreement"] += int((expected.argmax(-1) == top).sum())
                sums["kl"] += float(functional.kl_div(log_probs, expected, reduction="sum", log_target=True))
    return _means(sums, calibration, count, teacher is not None)


def _means(sums: dict[str, float], calibration: Calibration, count: int, with_teacher: bool) -> dict[str, float]:
    if not count:
        raise DataError("evaluation got no token to predict; raise evaluation.max_tokens")
    means = {name: value / count for name, value in sums.items() if with_teacher or name not in ("agreement", "kl")}
    if not math.isfinite(means["loss"]):
        raise TrainingError(f"the held-out loss must be finite, got {means['loss']}; the weights hold NaN or infinity")
    return {**means, "perplexity": math.exp(min(means["loss"], 700.0)), "ece": calibration.error(), "tokens": count}


def _batches(docs: Sequence[np.ndarray], context: int, rows: int) -> Iterator[list[Piece]]:
    """Windows of like length together, `rows` at a time."""
    pieces = [(doc, window) for doc in docs for window in windows(len(doc), context, context // 4)]
    pieces.sort(key=lambda piece: piece[1].num_tokens)
    for first in range(0, len(pieces), rows):
        yield pieces[first : first + rows]


def _log_probs(model: PreTrainedModel, pieces: list[Piece], vocab: int) -> torch.Tensor:
    """Log-probabilities f32 [N, vocab] of the kept labels, on the CPU; padding rows of the vocabulary are left out."""
    longest = max(window.num_tokens for _, window in pieces)
    ids = torch.zeros(len(pieces), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, (doc, window) in enumerate(pieces):
        ids[row, : window.num_tokens] = torch.from_numpy(doc[window.start : window.stop])
        mask[row, : window.num_tokens] = 1
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
    kept = torch.cat([logits[row, window.kept] for row, (_, window) in enumerate(pieces)])
    return functional.log_softmax(kept[:, :vocab].float(), dim=-1).cpu()


def _targets(pieces: list[Piece]) -> torch.Tensor:
    found = [doc[window.first_label + 1 : window.last_label + 1] for doc, window in pieces]
    return torch.from_numpy(np.concatenate(found))
