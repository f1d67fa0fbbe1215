"""Patch similarity: a way for vision transformers, whose LayerNorms keep no statistics of real data.

The idea of PSAQ-ViT (Li et al. 2022, arXiv:2203.02250): of real images a transformer's patches are unlike each other in
many ways, of noise they are all alike. So the entropy of the density of cosines between patches is raised. Written from
the paper's description; it was not compared with its code.
"""

import math

import torch
from torch import Tensor, nn

from kdcore.config.synthesis.images import PatchSimilarityConfig
from kdcore.errors import ConfigError
from kdcore.synthesis.images.inversion import Canvas, Inversion, pixel_canvas
from kdcore.synthesis.images.pixels import PixelSpace
from kdcore.taps import Taps

__all__ = ["PatchSimilarity", "similarity_entropy"]


def similarity_entropy(tokens: Tensor, points: int, bandwidth: float) -> Tensor:
    """Differential entropy, in nats, of the cosines between an image's patches; the mean over images.

    `tokens` [B, N, D], N at least 2. The density is a mean of Gaussians of `bandwidth` around the cosines of different
    patches, taken at `points` places from -1 to 1, and integrated by the trapezoid rule.
    """
    unit = nn.functional.normalize(tokens, dim=-1)
    above = torch.triu_indices(tokens.shape[1], tokens.shape[1], offset=1, device=tokens.device)
    cosines = (unit @ unit.transpose(1, 2))[:, above[0], above[1]]
    places = torch.linspace(-1, 1, points, device=tokens.device)
    apart = (places[:, None] - cosines[:, None, :]) / bandwidth
    density = torch.exp(-0.5 * apart.square()).mean(-1) / (bandwidth * math.sqrt(2 * math.pi))
    return -torch.trapezoid(density * density.clamp_min(1e-12).log(), places).mean()


class PatchSimilarity(Inversion[PatchSimilarityConfig]):
    """Pixels by the entropy of patch similarities in every attention, cross-entropy and total variation."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module | None,
        settings: PatchSimilarityConfig,
        space: PixelSpace,
        num_classes: int,
    ) -> None:
        super().__init__(teacher, student, settings, space, num_classes)
        self._paths = settings.at or _attentions(teacher)
        self._entropy = torch.zeros(())

    def canvas(self, targets: Tensor) -> Canvas:
        """Pixels."""
        return pixel_canvas(len(targets), self.space, self.device)

    def answers(self, seen: Tensor) -> Tensor:
        """Notes the entropies beside."""
        with Taps(self.teacher, self._paths, "the teacher") as taps:
            logits = super().answers(seen)
        self._entropy = torch.stack([self._of(path, taps.outputs[path].float()) for path in self._paths]).mean()
        return logits

    def terms(self, pixels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The entropy is raised."""
        terms = super().terms(pixels, targets)
        return {**terms, "patch_entropy": -self._entropy} if self.settings.patch_entropy else terms

    def _of(self, path: str, tokens: Tensor) -> Tensor:
        patches = tokens[:, self.settings.first_tokens :]
        if tokens.dim() != 3 or patches.shape[1] < 2:
            raise ConfigError(
                f"synthesis.at must name modules that give tokens [B, N, D] of two patches or more; '{path}' gives "
                f"{list(tokens.shape)} with synthesis.first_tokens {self.settings.first_tokens}"
            )
        return similarity_entropy(patches, self.settings.points, self.settings.bandwidth)


def _attentions(teacher: nn.Module) -> tuple[str, ...]:
    found = tuple(name for name, module in teacher.named_modules() if type(module).__name__.endswith("Attention"))
    if not found:
        raise ConfigError(
            "synthesis.type patch_similarity compares the tokens of attentions, and this teacher has no module of such "
            "a name: set synthesis.at to modules that give tokens [B, N, D], or synthesis.type to another"
        )
    return found
