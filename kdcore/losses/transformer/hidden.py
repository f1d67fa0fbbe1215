"""Hidden states, compared token by token.

PKD: Sun et al., "Patient Knowledge Distillation for BERT Model Compression" (arXiv 1908.09355), eq. 7; the authors'
code takes the mean over the width, not the sum. TinyBERT: Jiao et al. (arXiv 1909.10351), eq. 8 and 9. DistilBERT: Sanh
et al. (arXiv 1910.01108); the cosine of [CLS] alone is also a part of Aguilar et al., "Knowledge Distillation from
Internal Representations" (arXiv 1910.03723).
"""

from abc import abstractmethod
from typing import TypeVar

from torch import Tensor

from kdcore.config.losses.transformer import HiddenCosineTerm, HiddenStatesTerm, HiddenTerm, PatientTerm
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.numerics import unit, wide
from kdcore.losses.projectors import project, vector_projector
from kdcore.losses.tokens import check_tokens, sequences, token_mean

__all__ = [
    "HiddenCosine",
    "HiddenMethod",
    "HiddenStates",
    "Patient",
    "TokenMethod",
    "cosine_distance",
    "direction_distance",
    "mean_square",
]

HiddenTermT = TypeVar("HiddenTermT", bound=HiddenTerm)


def direction_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """||h_s / ||h_s|| - h_t / ||h_t|| ||^2 of each token [B, L] of states [B, L, D]."""
    return (unit(student) - unit(teacher)).square().sum(-1)


def mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    """mean_d (h_s - h_t)^2 of each token [B, L] of states [B, L, D]."""
    return (student - teacher).square().mean(-1)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos(h_s, h_t) of each token [B, L] of states [B, L, D]."""
    return 1 - (unit(student) * unit(teacher)).sum(-1)


class HiddenMethod(FeatureMethod[HiddenTermT]):
    """Sum over the pairs of layers of a loss of the tokens that the term names."""

    def __init__(self, term: HiddenTermT, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        if term.tokens == "all":
            for ours, theirs in zip(term.at, term.teacher_paths, strict=True):
                check_tokens([shapes.student[ours], shapes.teacher[theirs]])
        self.projectors = self.for_pairs(shapes, vector_projector)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod; states are [B, L, D], or [B, D]."""
        ours, theirs, mask = sequences(wide(student)), sequences(wide(teacher)), inputs.mask
        if self.term.tokens == "first" or ours.shape[1] == 1:
            ours, theirs, mask = ours[:, :1], theirs[:, :1], None
        return self.compare(project(self.projectors[number], ours), theirs, mask)

    @abstractmethod
    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """The loss, a scalar, of states [B, L, D] of one width; `mask` [B, L] is false for padding."""


class TokenMethod(HiddenMethod[HiddenTermT]):
    """A mean of distances token by token."""

    def compare(self, student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
        """See HiddenMethod."""
        return token_mean(self.distance(student, teacher), mask)

    @abstractmethod
    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Of each token [B, L], from states [B, L, D] of one width."""


class Patient(TokenMethod[PatientTerm]):
    """Squared distance of directions."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See TokenMethod."""
        return direction_distance(student, teacher)


class HiddenStates(TokenMethod[HiddenStatesTerm]):
    """Mean squares."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See TokenMethod."""
        return mean_square(student, teacher)


class HiddenCosine(TokenMethod[HiddenCosineTerm]):
    """One less the cosine."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """See TokenMethod."""
        return cosine_distance(student, teacher)
