"""Factor transfer: an autoencoder paraphrases the teacher's features, a translator of the student's is to say the same.

Kim et al., "Paraphrasing Complex Network: Network Compression via Factor Transfer" (arXiv 1802.04977). The
paper trains the paraphraser first; here it learns along, on the teacher's features alone, and the student's loss has no
gradient in it.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from kdcore.config.losses.feature import FactorTransferTerm
from kdcore.losses.method import LossInputs, MapMethod, Shapes
from kdcore.losses.numerics import unit, wide
from kdcore.losses.projectors import ChannelNorm, project, same_size

__all__ = ["FactorTransfer", "Paraphraser", "convolutions", "factor_transfer"]


def factor_transfer(student: Tensor, teacher: Tensor, p: int = 1) -> Tensor:
    """The p-norm of the difference of factors [B, ...] of one shape, each brought to length one.

    p = 1 takes the mean over elements, as the authors' code does; p = 2 the mean over samples of the norm.
    """
    gap = unit(student.flatten(1)) - unit(teacher.flatten(1))
    return gap.abs().mean() if p == 1 else torch.linalg.vector_norm(gap, dim=1).mean()


def convolutions(*widths: int, transposed: bool = False) -> nn.Sequential:
    """3 x 3 convolutions from each width to the next, with BatchNorm and leaky ReLU."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    parts: list[nn.Module] = []
    for ours, theirs in pairwise(widths):
        parts += [kind(ours, theirs, 3, padding=1), ChannelNorm(theirs), nn.LeakyReLU(0.1)]
    return nn.Sequential(*parts)


class Paraphraser(nn.Module):
    """Maps of C channels to factors of `rate` C and back."""

    def __init__(self, channels: int, rate: float) -> None:
        super().__init__()
        factors = self.factors_of(channels, rate)
        self.encoder = convolutions(channels, channels, factors, factors)
        self.decoder = convolutions(factors, factors, channels, channels, transposed=True)

    @staticmethod
    def factors_of(channels: int, rate: float) -> int:
        """How many factors so many channels have, at least one."""
        return max(round(channels * rate), 1)

    def forward(self, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Factors without a gradient, and the loss mean (x - P(x))^2 of the autoencoder."""
        factors = self.encoder(teacher.to(next(self.parameters()).dtype))
        return factors.detach(), (wide(self.decoder(factors)) - wide(teacher)).square().mean()


class FactorTransfer(MapMethod[FactorTransferTerm]):
    """A paraphraser and a translator for each pair of layers; their losses are summed."""

    def __init__(self, term: FactorTransferTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.paraphrasers = self.for_pairs(shapes, self._paraphraser)
        self.translators = self.for_pairs(shapes, self._translator)

    def _paraphraser(self, ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
        return Paraphraser(theirs[0], self.term.rate)

    def _translator(self, ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
        factors = Paraphraser.factors_of(theirs[0], self.term.rate)
        return convolutions(ours[0], ours[0], factors, factors)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        translated = project(self.translators[number], student)
        factors, reconstruction = self.paraphrasers[number](teacher)
        ours, theirs = same_size(translated, factors)
        return factor_transfer(ours, theirs, self.term.p) + self.term.reconstruction * reconstruction
