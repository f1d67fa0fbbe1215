"""Contrastive model inversion (Fang et al. 2021, arXiv:2105.08584): no image is to look like one made before."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.synthesis.images import CmiConfig
from kdcore.synthesis.images.augment import resized_crops
from kdcore.synthesis.images.generated import drawing, new_generator
from kdcore.synthesis.images.inversion import Canvas, Inversion
from kdcore.synthesis.images.pixels import PixelSpace
from kdcore.synthesis.images.statistics import Inside

__all__ = ["ContrastiveInversion", "told_apart"]


def told_apart(local: Tensor, whole: Tensor, others: Tensor, temperature: float) -> Tensor:
    """InfoNCE: each row of `local` [B, D] must find its own of `whole` [B, D] among all of them and `others` [N, D].

    Rows are unit vectors. The mean cross-entropy over cosines / temperature, in nats.
    """
    similarity = local @ torch.cat([whole, others]).T / temperature
    return functional.cross_entropy(similarity, torch.arange(len(local), device=local.device))


class ContrastiveInversion(Inversion[CmiConfig]):
    """Every batch has a new generator; images are compared by a small network on the means of the teacher's layers.

    A cut of an image has to find the whole of it among the batch and remembered images. Of a teacher without BatchNorm
    what goes into its convolutions, or LayerNorms, is averaged.
    """

    def __init__(
        self, teacher: nn.Module, student: nn.Module | None, settings: CmiConfig, space: PixelSpace, num_classes: int
    ) -> None:
        super().__init__(teacher, student, settings, space, num_classes)
        with torch.no_grad(), Inside(teacher, means=True) as inside:
            teacher(torch.zeros(1, *space.shape, device=self.device))
            width = inside.means().shape[1]
        self._memory = torch.empty(0, width)
        layers = (nn.Linear(width, width), nn.ReLU(), nn.Linear(width, settings.embedding))
        self._embed = nn.Sequential(*layers).to(self.device)
        self._optimizer = torch.optim.Adam(self._embed.parameters(), settings.learning_rate)
        self._newest = torch.empty(0, width)

    def canvas(self, targets: Tensor) -> Canvas:
        """A new generator and latents."""
        generator = new_generator(self.settings, self.space, self.device)
        latents = torch.randn(len(targets), self.settings.latent, device=self.device, requires_grad=True)
        groups = [{"params": list(generator.parameters())}, {"params": [latents]}]
        return Canvas(drawing(generator, lambda: latents, self.settings), groups)

    def watched(self, means: bool = False) -> Inside:
        """Means of the layers as well."""
        return super().watched(means or self.settings.contrast > 0)

    def inner_terms(self, inside: Inside, pixels: Tensor) -> dict[str, Tensor]:
        """The contrast of a cut of each image with the whole ones."""
        settings = self.settings
        if not settings.contrast:
            return {}
        whole = inside.means()
        with Inside(self.teacher, means=True) as cut:
            self.answers(self.space.seen(resized_crops(pixels)))
            local = cut.means()
        self._newest = whole.detach().cpu()
        rows = torch.randperm(len(self._memory))[: settings.negatives]
        others = self._embedded(self._memory[rows].to(self.device))
        return {
            "contrast": told_apart(self._embedded(local), self._embedded(whole), others, settings.contrast_temperature)
        }

    def after_backward(self) -> None:
        """The comparing network learns with the images."""
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def after_batch(self) -> None:
        """The batch is remembered as it was at its last step."""
        self._memory = torch.cat([self._memory, self._newest])[-self.settings.memory :]

    def _embedded(self, means: Tensor) -> Tensor:
        return functional.normalize(self._embed(means), dim=1)
