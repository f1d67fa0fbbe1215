"""Quality of a causal language model on held-out documents, alone and beside its teacher."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from kdcore.data.document import TextDocument
from kdcore.data.encoding import EncodedText, LabelledWindow, TextEncoder
from kdcore.data.tokenizer import valid_vocabulary
from kdcore.errors import DataError, TrainingError
from kdcore.evaluation.calibration import Calibration

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["evaluate_lms", "heldout_texts", "in_other_tokens"]

_LOGITS_AT_ONCE = 2**26  # float32 logits of one forward pass: 256 MB
_SHARE_OF_ONE_DOCUMENT = 8

Piece = tuple[EncodedText, LabelledWindow]


def heldout_texts(
    encoder: TextEncoder, docs: Iterable[TextDocument], max_tokens: int
) -> list[tuple[TextDocument, EncodedText]]:
    """The documents and their tokens, in order, about `max_tokens` labels in all.

    A document gives its beginning only, at most an eighth of the total, so that no single one is the measure.
    Raises DataError when nothing is left to predict.
    """
    most = max(2, math.ceil(max_tokens / _SHARE_OF_ONE_DOCUMENT))
    kept: list[tuple[TextDocument, EncodedText]] = []
    left = max_tokens
    for doc in docs:
        text = encoder.encode(doc).beginning(min(most, left))
        if len(text.positions):
            kept.append((doc, text))
            left -= len(text.positions)
        if left <= 0:
            break
    if not kept:
        raise DataError(
            "the held-out split has no document with a token to predict (of those that data.mask leaves); raise "
            "data.heldout_fraction"
        )
    return kept


def in_other_tokens(encoder: TextEncoder, texts: Sequence[tuple[TextDocument, EncodedText]]) -> list[EncodedText]:
    """The same bytes of the same documents as another tokenizer cuts them; both must know of bytes."""
    found: list[EncodedText] = []
    for doc, text in texts:
        assert text.byte_ends is not None
        found.append(encoder.encode(doc).until(int(text.byte_ends[text.positions[-1] + 1])))
    return [text for text in found if len(text.positions)]


class _Tally:
    """Sums of one model's measurements over all labels."""

    def __init__(self, bins: int) -> None:
        self.sums = {"loss": 0.0, "accuracy": 0.0}
        self.calibration = Calibration(bins)
        self.count = 0

    def add(self, log_probs: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor | None) -> None:
        """Log-probabilities [N, V] of the model and, if any, of its teacher; targets int64 [N]."""
        confidence, top = log_probs.max(-1)
        self.sums["loss"] -= float(log_probs.gather(1, targets[:, None]).double().sum())
        self.sums["accuracy"] += int((top == targets).sum())
        self.calibration.update(confidence.exp(), top == targets)
        self.count += len(targets)
        if teacher is not None:
            agreed = int((teacher.argmax(-1) == top).sum())
            divergence = float(functional.kl_div(log_probs, teacher, reduction="sum", log_target=True))
            self.sums["agreement"] = self.sums.get("agreement", 0.0) + agreed
            self.sums["kl"] = self.sums.get("kl", 0.0) + divergence

    def means(self) -> dict[str, float]:
        """The measurements. Raises TrainingError when the model's outputs are not finite."""
        means = {name: value / self.count for name, value in self.sums.items()}
        loss = means["loss"]
        if not math.isfinite(loss):
            raise TrainingError(f"the held-out loss must be finite, got {loss}; the weights hold NaN or infinity")
        perplexity = math.exp(min(loss, 700.0))
        return {**means, "perplexity": perplexity, "ece": self.calibration.error(), "tokens": self.count}


def evaluate_lms(
    models: Mapping[str, PreTrainedModel],
    tokenizer: PreTrainedTokenizerBase,
    docs: Sequence[EncodedText],
    teacher: str | None = None,
    *,
    batch: int = 16,
    bins: int = 15,
    context: int = 256,
) -> dict[str, dict[str, float]]:
    """Loss (nats), perplexity, accuracy, ece and tokens of each model over the labelled tokens of `docs`.

    `teacher` names the model that the others are also compared with: `agreement` (share of equal top-1) and `kl`
    (teacher to student, nats). Documents with bytes give `bits_per_byte`, too. Longer documents are read in windows of
    `context` tokens that overlap by a quarter.
    """
    vocab = valid_vocabulary(tokenizer)
    tallies = {name: _Tally(bins) for name in models}
    rows = max(1, min(batch, _LOGITS_AT_ONCE // (context * vocab)))
    with torch.inference_mode():
        for pieces in _batches(docs, context, rows):
            targets = _targets(pieces)
            expected = None if teacher is None else _log_probs(models[teacher], pieces, vocab)
            for name, model in models.items():
                if name == teacher and expected is not None:
                    tallies[name].add(expected, targets, None)
                else:
                    tallies[name].add(_log_probs(model, pieces, vocab), targets, expected)
    size = sum(doc.num_bytes for doc in docs) if all(doc.byte_ends is not None for doc in docs) else 0
    return {name: {**tally.means(), **_per_byte(tally, size)} for name, tally in tallies.items()}


def _per_byte(tally: _Tally, size: int) -> dict[str, float]:
    """Of all bytes of the documents, which tokenizers have in common."""
    return {"bits_per_byte": tally.sums["loss"] / math.log(2) / size} if size else {}


def _batches(docs: Sequence[EncodedText], context: int, rows: int) -> Iterator[list[Piece]]:
    """Windows of like length together, `rows` at a time."""
    pieces = [(doc, part) for doc in docs for part in doc.windows(context, context // 4)]
    pieces.sort(key=lambda piece: piece[1].window.num_tokens)
    for first in range(0, len(pieces), rows):
        yield pieces[first : first + rows]


def _log_probs(model: PreTrainedModel, pieces: list[Piece], vocab: int) -> torch.Tensor:
    """Log-probabilities f32 [N, vocab] of the kept labels, on the CPU; padding rows of the vocabulary are left out."""
    longest = max(part.window.num_tokens for _, part in pieces)
    ids = torch.zeros(len(pieces), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, (doc, (window, _, _)) in enumerate(pieces):
        ids[row, : window.num_tokens] = torch.from_numpy(doc.tokens[window.start : window.stop])
        mask[row, : window.num_tokens] = 1
    logits = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False).logits
    kept = torch.cat([logits[row][part.rows] for row, (_, part) in enumerate(pieces)])
    return functional.log_softmax(kept[:, :vocab].float(), dim=-1).cpu()


def _targets(pieces: list[Piece]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([doc.targets[part.labels] for doc, part in pieces]))
