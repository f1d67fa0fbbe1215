"""Approximate likelihood matching (Minixhofer, Vulić, Ponti 2025, arXiv 2503.20083): chunks of text as coin tosses.

What teacher and student can both say of a chunk, whatever their tokens, is how likely it was: the sum of the
log-probabilities of its tokens. Two numbers p and q are compared by a divergence of Bernoulli distributions, after
both were raised to 1 / temperature, since most chunks are unlikely.

A token's probability is that of its bytes *and* of the token's ending there, which tokenizers do at different places.
So both sides add, after the last token of a chunk, the log-probability that white space or a special token comes next:
then what was written is whole on either side (`append_space` of the authors).
"""

import torch
from torch import Tensor

from kdcore.config.loss import ChunkForm
from kdcore.errors import LabelError
from kdcore.labels.chunk_labels import ChunkLabels

__all__ = ["chunk_divergence", "chunk_log_probs", "likelihood_loss"]

_LEAST = 1e-6
"""A chunk is never certain: as far below 0 its log-probability stays."""


def chunk_log_probs(log_probs: Tensor, boundary_log_probs: Tensor, labels: ChunkLabels) -> Tensor:
    """The student's log-probability of each chunk and what ends it, [C], of those of its tokens, [N] each."""
    if log_probs.shape != labels.chunk.shape:
        raise LabelError(
            f"one log-probability a token is needed: {labels.num_labels} tokens, {len(log_probs)} log-probabilities"
        )
    inside = labels.chunk >= 0
    # One more than there are, so that a batch without a chunk has its place in the graph, too.
    sums = log_probs.new_zeros(labels.num_chunks + 1)
    sums = sums.index_add(0, labels.chunk.clamp(min=0), log_probs.masked_fill(~inside, 0.0))[:-1]
    if not len(boundary_log_probs):
        return sums
    # The masks are before the sums, so that no -inf of a token that is not asked gives a NaN.
    told = labels.after >= 0
    return sums + boundary_log_probs[labels.after.clamp(min=0)].masked_fill(~told, 0.0)


def chunk_divergence(teacher: Tensor, student: Tensor, form: ChunkForm = "kl", temperature: float = 100.0) -> Tensor:
    """Of Bernoulli distributions of log-probabilities [C] over `temperature`, times `temperature`: [C].

    With p and q those probabilities, kl: p log(p / q) + (1 - p) log((1 - p) / (1 - q)); reverse_kl: with p and q
    exchanged; total_variation: |p - q|. The factor keeps gradients as large as they are at 1: at infinity kl is
    y - x + x log(x / y) of x = -log p and y = -log q at temperature 1, and total_variation |x - y|.
    """
    first, second = teacher.to(student.dtype), student
    if form == "reverse_kl":
        first, second = second, first
    first, second = first.clamp(max=-_LEAST), second.clamp(max=-_LEAST)
    if temperature == float("inf"):
        if form == "total_variation":
            return (first - second).abs()
        return first - second - first * (first / second).log()
    log_p, log_q = first / temperature, second / temperature
    if form == "total_variation":
        return temperature * (log_p.exp() - log_q.exp()).abs()
    rest = -torch.expm1(log_p) * (_log1mexp(log_p) - _log1mexp(log_q))
    return temperature * (log_p.exp() * (log_p - log_q) + rest)


def likelihood_loss(
    log_probs: Tensor,
    boundary_log_probs: Tensor,
    labels: ChunkLabels,
    form: ChunkForm = "kl",
    temperature: float = 100.0,
) -> Tensor:
    """Sum over the chunks of `labels`, of the student's log-probabilities of its N tokens and of a boundary, [N] each.

    float32 (float64 for float64); LabelError unless there is one of each a token.
    """
    student = chunk_log_probs(log_probs, boundary_log_probs, labels)
    return chunk_divergence(labels.log_probs + labels.boundary_log_probs, student, form, temperature).sum()


def _log1mexp(values: Tensor) -> Tensor:
    """log(1 - e^x) of x < 0, exact near 0 and far from it (Maechler 2012)."""
    near = values > -0.6931471805599453
    close = (-torch.expm1(values.clamp(min=-1.0))).log()
    return torch.where(near, close, torch.log1p(-values.clamp(max=-0.5).exp()))
