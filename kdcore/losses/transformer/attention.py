"""Attention, made again from queries and keys and compared head by head.

What a model does to queries and keys before it multiplies them, such as rotary positions, is not made again. Scores
before the softmax: TinyBERT, Jiao et al. (arXiv 1909.10351), eq. 7. Maps after it: MobileBERT, Sun et al. (arXiv
2004.02984), and MiniLM, Wang et al. (arXiv 2002.10957).
"""

from abc import abstractmethod
from typing import TypeVar

from torch import Tensor

from kdcore.config.losses.transformer import AttentionMapsTerm, AttentionScoresTerm, QueryKeyTerm
from kdcore.errors import ConfigError
from kdcore.losses.forms import KL
from kdcore.losses.method import LossInputs, Method, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.tokens import check_tokens, token_mean

__all__ = ["AttentionMaps", "AttentionScores", "check_heads", "map_distance", "score_distance", "scores_of"]

QueryKeyTermT = TypeVar("QueryKeyTermT", bound=QueryKeyTerm)


def scores_of(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """q . k / sqrt(d) [B, H, L, L] of queries and keys [B, L, H * d]."""
    batch, length, width = queries.shape
    query, key = (wide(given).view(batch, length, heads, -1).transpose(1, 2) for given in (queries, keys))
    return query @ key.transpose(2, 3) * (width // heads) ** -0.5


def score_distance(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """mean (a_s - a_t)^2 over heads and pairs of tokens of scores [B, H, L, L], the mean over samples.

    Pairs with padding, where `mask` [B, L] is false, do not count.
    """
    squares = (student - teacher).square().mean(1)
    return token_mean(squares.flatten(1), None if mask is None else (mask[:, :, None] & mask[:, None]).flatten(1))


def map_distance(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """KL(softmax(a_t), softmax(a_s)) over keys of scores [B, H, L, L], the mean over heads, tokens and samples.

    Padding, where `mask` [B, L] is false, neither sees nor is seen.
    """
    if mask is not None:
        hidden = ~(mask | ~mask.any(1, keepdim=True))[:, None, None]
        student, teacher = (scores.masked_fill(hidden, float("-inf")) for scores in (student, teacher))
    divergence = KL(teacher.log_softmax(-1), student.log_softmax(-1), student.shape[-1])[0]
    return token_mean(divergence.mean(1), mask)


def check_heads(term_type: str, heads: int, shapes: list[tuple[int, ...]]) -> None:
    """ConfigError unless shapes are (L, D) of one L, with D a multiple of the heads."""
    check_tokens(shapes)
    for shape in shapes:
        if len(shape) != 2 or shape[1] % heads:
            raise ConfigError(
                f"{term_type} cuts vectors [B, L, D] into `heads` parts, but a tapped layer gives {['B', *shape]} for "
                f"{heads} heads: set `at` to the linear maps of queries, keys or values, and `heads` to a divisor of D"
            )


class _QueryKeyMethod(Method[QueryKeyTermT]):
    """Sum over layers."""

    def __init__(self, term: QueryKeyTermT, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        tapped = [shapes.student[path] for path in term.at] + [shapes.teacher[path] for path in term.teacher_paths]
        check_heads("attention", term.heads, tapped)
        for queries, keys in zip(tapped[::2], tapped[1::2], strict=True):
            if queries != keys:
                raise ConfigError(
                    f"`at` names queries, then keys, of one width, got {['B', *queries]} and {['B', *keys]}: queries "
                    "that share their keys (grouped heads) cannot be compared here"
                )

    def forward(self, inputs: LossInputs) -> Tensor:
        """See Method."""
        ours = self._scores([inputs.student[path] for path in self.term.at])
        theirs = self._scores([inputs.teacher[path] for path in self.term.teacher_paths])
        losses = [self.compare(one, other, inputs.mask) for one, other in zip(ours, theirs, strict=True)]
        return sum(losses[1:], losses[0])

    def _scores(self, tapped: list[Tensor]) -> list[Tensor]:
        return [scores_of(*pair, self.term.heads) for pair in zip(tapped[::2], tapped[1::2], strict=True)]

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The loss of one layer, a scalar, of scores [B, H, L, L]."""


class AttentionScores(_QueryKeyMethod[AttentionScoresTerm]):
    """Mean squares before the softmax."""

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The mean over heads and pairs of tokens."""
        return score_distance(student, teacher, mask)


class AttentionMaps(_QueryKeyMethod[AttentionMapsTerm]):
    """KL after the softmax."""

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The mean over heads and tokens."""
        return map_distance(student, teacher, mask)
