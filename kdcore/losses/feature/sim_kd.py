"""SimKD: the student's last maps, through a projector, are to be the teacher's last maps.

Chen et al., "Knowledge Distillation with the Reused Teacher Classifier" (arXiv 2203.14001), the loss and the projector
of the authors' code. Their student predicts with the projector and the teacher's classifier. Here projectors are thrown
away after training and an exported student has a head of its own, which this loss does not train: give it a loss of
logits too.
"""

from torch import Tensor, nn

from kdcore.config.losses.feature_later import SimKDTerm
from kdcore.losses.feature.fitnet import hint_loss
from kdcore.losses.method import LossInputs, MapMethod, Shapes
from kdcore.losses.projectors import ChannelNorm, project

__all__ = ["SimKD", "bottleneck"]


def bottleneck(ours: tuple[int, ...], theirs: tuple[int, ...], factor: int) -> nn.Module:
    """Maps of C to C' channels: 1 x 1, 3 x 3 and 1 x 1 convolutions, C' / `factor` channels wide between."""
    width = max(theirs[0] // factor, 1)
    parts: list[nn.Module] = []
    for channels, out, kernel in ((ours[0], width, 1), (width, width, 3), (width, theirs[0], 1)):
        convolution = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        parts += [convolution, ChannelNorm(out), nn.ReLU()]
    return nn.Sequential(*parts)


class SimKD(MapMethod[SimKDTerm]):
    """A bottleneck for each pair of layers (the paper has one, before the pooling), and the sum of their losses."""

    def __init__(self, term: SimKDTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.bottlenecks = self.for_pairs(shapes, lambda ours, theirs: bottleneck(ours, theirs, term.factor))

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return hint_loss(project(self.bottlenecks[number], student), teacher)
