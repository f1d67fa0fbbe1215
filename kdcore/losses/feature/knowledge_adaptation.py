"""Knowledge adaptation, of dense prediction: translated features, and how places of a map go together.

He et al., "Knowledge Adaptation for Efficient Semantic Segmentation" (CVPR 2019), as torchdistill has it: an
autoencoder translates the teacher's maps, one adapter of the student's faces the code, another its affinity. As in
factor transfer, the autoencoder learns along here and the student's losses have no gradient in it.
"""

import torch
from torch import Tensor, nn

from kdcore.config.losses.feature_later import KnowledgeAdaptationTerm
from kdcore.losses.feature.factor_transfer import Paraphraser, factor_transfer
from kdcore.losses.method import LossInputs, MapMethod, Shapes
from kdcore.losses.numerics import unit
from kdcore.losses.projectors import ChannelNorm, project, same_size

__all__ = ["KnowledgeAdaptation", "affinity"]


def affinity(student: Tensor, teacher: Tensor) -> Tensor:
    """Sum over channels of ||a a^T - b b^T|| / (H W), Frobenius norm, and the mean over samples.

    a and b are the channels of maps [B, C, H, W] of one shape, as vectors of length one over places.
    """
    a, b = unit(student.flatten(2)), unit(teacher.flatten(2))
    # With u = a - b and v = a + b the difference is (u v^T + v u^T) / 2: no matrix of H W x H W, and no digits lost.
    u, v = a - b, a + b
    squares = (u.square().sum(2) * v.square().sum(2) + (u * v).sum(2).square()) / 2
    some = squares > 0
    return (torch.where(some, squares, 1.0).sqrt() * some).sum(1).mean() / a.shape[2]


class KnowledgeAdaptation(MapMethod[KnowledgeAdaptationTerm]):
    """An autoencoder and two adapters for each pair of layers; their losses are summed."""

    def __init__(self, term: KnowledgeAdaptationTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.translators = self.for_pairs(shapes, lambda ours, theirs: Paraphraser(theirs[0], term.rate))
        self.adapters = self.for_pairs(shapes, self._adapter)
        self.affinity_adapters = self.for_pairs(shapes, self._affinity_adapter)

    def _adapter(self, ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
        width = Paraphraser.factors_of(theirs[0], self.term.rate)
        return nn.Sequential(nn.Conv2d(ours[0], width, 3, padding=1), ChannelNorm(width), nn.ReLU())

    def _affinity_adapter(self, ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
        return nn.Conv2d(ours[0], Paraphraser.factors_of(theirs[0], self.term.rate), 3, padding=1)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        code, reconstruction = self.translators[number](teacher)
        adapted = same_size(project(self.adapters[number], student), code)
        places = same_size(project(self.affinity_adapters[number], student), code)
        return (
            factor_transfer(*adapted)
            + self.term.affinity * affinity(*places)
            + self.term.reconstruction * reconstruction
        )
