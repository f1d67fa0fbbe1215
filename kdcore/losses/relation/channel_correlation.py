"""ICKD: how the channels of a layer go together.

Liu et al., "Exploring Inter-Channel Correlation for Diversity-Preserved Knowledge Distillation" (ICCV 2021, arXiv
2202.03680), the form for classification, as the authors' code for CIFAR reduces it.
"""

from torch import Tensor

from kdcore.config.losses.relation import ChannelCorrelationTerm
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.numerics import unit, wide
from kdcore.losses.projectors import project, spatial_projector

__all__ = ["ChannelCorrelation", "channel_correlation"]


def channel_correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """(1 / (B C)) sum ||G_s - G_t||_F^2 of maps [B, C, H, W], G [C, C] = F F^T of a sample with rows of length one.

    H and W may differ. torchdistill divides by B once more.
    """
    apart = _correlations(student) - _correlations(teacher)
    return apart.square().sum() / (apart.shape[0] * apart.shape[1])


def _correlations(features: Tensor) -> Tensor:
    channels = wide(features).flatten(2)
    return unit(channels @ channels.mT)


class ChannelCorrelation(FeatureMethod[ChannelCorrelationTerm]):
    """Sum over the pairs of layers; the student's channels are brought to the teacher's by a learnt projection."""

    def __init__(self, term: ChannelCorrelationTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.projectors = self.for_pairs(shapes, spatial_projector)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return channel_correlation(project(self.projectors[number], student), teacher)
