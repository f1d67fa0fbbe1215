"""Feature-normalised distillation (FN): a temperature for each sample, as long as its features.

Xu et al., "Feature Normalized Knowledge Distillation for Image Classification" (ECCV 2020), after the authors' code,
which shortens features beyond a length before the head of both networks; here logits are divided, with them the bias.
"""

from typing import ClassVar

from torch import Tensor

from kdcore.config.losses.response import FeatureNormTerm
from kdcore.losses.method import FeatureMethod, LossInputs
from kdcore.losses.numerics import wide
from kdcore.losses.response.logits import sample_kl

__all__ = ["FeatureNorm", "normed"]


def normed(logits: Tensor, features: Tensor, length: float, shorten_only: bool) -> Tensor:
    """Logits [B, C] divided by ||f|| / length of features f [B, ...]; `shorten_only`: not by less than 1."""
    temperature = wide(features).flatten(1).square().sum(1).clamp(min=1e-12).sqrt() / length
    return wide(logits) / temperature.clamp(min=1.0 if shorten_only else 1e-6)[:, None]


class FeatureNorm(FeatureMethod[FeatureNormTerm]):
    """KL of these distributions, the mean over samples; features are those before the head."""

    needs_teacher_logits: ClassVar[bool] = True

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        assert inputs.teacher_logits is not None
        ours = normed(inputs.student_logits, student, self.term.length, self.term.shorten_only)
        return sample_kl(ours, normed(inputs.teacher_logits, teacher, self.term.length, self.term.shorten_only)).mean()
