"""Data impressions (ZSKD, Nayak et al. 2019, arXiv:1905.08114): images of soft targets that resemble real answers."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.synthesis.images import ImpressionsConfig
from kdcore.synthesis.images.inversion import Canvas, Inversion, pixel_canvas
from kdcore.synthesis.images.pixels import PixelSpace
from kdcore.synthesis.images.statistics import last_linear

__all__ = ["Impressions", "class_similarity"]

_LEAST = 1e-3


def class_similarity(weights: Tensor) -> Tensor:
    """Cosines of the rows of class weights [C, D], each row of the result [C, C] scaled to 0 .. 1."""
    unit = functional.normalize(weights.float(), dim=1)
    cosines = unit @ unit.T
    lowest, highest = cosines.amin(1, keepdim=True), cosines.amax(1, keepdim=True)
    return (cosines - lowest) / (highest - lowest).clamp_min(1e-12)


class Impressions(Inversion[ImpressionsConfig]):
    """Pixels x with softmax(teacher(x) / target_temperature) near y ~ Dirichlet(scale x similarity to the class).

    `scales` take turns over the images of a batch. A concentration is at least 0.001, since a Dirichlet's must be
    positive and the least similar class has 0.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module | None,
        settings: ImpressionsConfig,
        space: PixelSpace,
        num_classes: int,
    ) -> None:
        super().__init__(teacher, student, settings, space, num_classes)
        self._similarity = class_similarity(last_linear(teacher, settings.head).weight.detach())
        self._soft = torch.empty(0)

    def canvas(self, targets: Tensor) -> Canvas:
        """Pixels, and the soft targets of the batch drawn."""
        scales = torch.tensor(self.settings.scales)[torch.arange(len(targets)) % len(self.settings.scales)]
        concentration = (scales[:, None].to(self.device) * self._similarity[targets]).clamp_min(_LEAST)
        self._soft = torch.distributions.Dirichlet(concentration).sample()
        return pixel_canvas(len(targets), self.space, self.device)

    def classified(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy with the soft targets at their temperature."""
        return functional.cross_entropy(logits / self.settings.target_temperature, self._soft)
