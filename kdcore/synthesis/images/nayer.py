"""Noisy layers (NAYER, Tran et al. 2024, arXiv:2310.00258): what a class means, through a layer that is drawn anew.

Here from the paper's description, not from its code: every batch has new noisy layers, each of which gives one image of
every class; generator and layers are trained together, and the generator stays from batch to batch. In place of the
paper's text embeddings of class names stand the teacher's own class weights, or drawn orthogonal vectors.
"""

import torch
from torch import Tensor, nn

from kdcore.config.synthesis.images import NayerConfig
from kdcore.synthesis.images.generated import drawing, new_generator
from kdcore.synthesis.images.generator import NoisyLayers
from kdcore.synthesis.images.inversion import Canvas, Inversion
from kdcore.synthesis.images.pixels import PixelSpace
from kdcore.synthesis.images.statistics import last_linear

__all__ = ["Nayer"]


class Nayer(Inversion[NayerConfig]):
    """Images of a batch are ordered layer by layer, in each the classes in turn."""

    def __init__(
        self, teacher: nn.Module, student: nn.Module | None, settings: NayerConfig, space: PixelSpace, num_classes: int
    ) -> None:
        super().__init__(teacher, student, settings, space, num_classes)
        self._generator = new_generator(settings, space, self.device)
        if settings.embeddings == "teacher":
            self._classes = last_linear(teacher, settings.head).weight.detach().float()
        else:
            size = max(settings.latent, num_classes)
            self._classes = torch.linalg.qr(torch.randn(size, size))[0][:num_classes].to(self.device)

    def targets(self, count: int) -> Tensor:
        """The classes in turn, from where the last batch ended."""
        return (int(self.made.sum()) + torch.arange(count)) % self.num_classes

    def canvas(self, targets: Tensor) -> Canvas:
        """New noisy layers before the generator."""
        first = int(targets[0])
        last = first + len(targets)
        layers = NoisyLayers(-(-last // self.num_classes), self._classes.shape[1], self.settings.latent).to(self.device)

        def latents() -> Tensor:
            return layers(self._classes)[first:last]

        groups = [{"params": list(self._generator.parameters())}, {"params": list(layers.parameters())}]
        return Canvas(drawing(self._generator, latents, self.settings), groups)
