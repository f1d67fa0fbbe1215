"""Fast data-free distillation (Fang et al. 2022, arXiv:2112.06253): a generator that learns where to begin.

Each batch starts from the common generator, adapts a copy and its latents for a few steps, and teaches the common one:
by the gradients of the copy (MAML of first order) or by where the copy came to (Reptile).
"""

import copy

import torch
from torch import Tensor, nn

from kdcore.config.synthesis.images import FastMetaConfig
from kdcore.synthesis.images.generated import drawing, new_generator
from kdcore.synthesis.images.inversion import Canvas, Inversion
from kdcore.synthesis.images.pixels import PixelSpace

__all__ = ["FastMeta"]

_BETAS = (0.5, 0.999)


class FastMeta(Inversion[FastMetaConfig]):
    """The rate of the common generator is learning_rate x steps, as in the paper's code."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module | None,
        settings: FastMetaConfig,
        space: PixelSpace,
        num_classes: int,
    ) -> None:
        super().__init__(teacher, student, settings, space, num_classes)
        self._common = new_generator(settings, space, self.device)
        self._copy = self._common
        rate = settings.learning_rate * settings.steps
        self._optimizer = torch.optim.Adam(self._common.parameters(), rate, betas=_BETAS)

    def canvas(self, targets: Tensor) -> Canvas:
        """A copy of the common generator, and latents."""
        self._copy = copy.deepcopy(self._common)
        self._optimizer.zero_grad(set_to_none=False)
        latents = torch.randn(len(targets), self.settings.latent, device=self.device, requires_grad=True)
        groups = [{"params": list(self._copy.parameters())}, {"params": [latents], "lr": self.settings.latent_rate}]
        return Canvas(drawing(self._copy, lambda: latents, self.settings), groups)

    def after_backward(self) -> None:
        """MAML: the copy's gradients add up in the common generator."""
        if self.settings.meta == "maml":
            for ours, its in self._pairs():
                assert its.grad is not None
                ours.grad = its.grad.clone() if ours.grad is None else ours.grad + its.grad

    def after_batch(self) -> None:
        """The common generator's step."""
        if self.settings.meta == "reptile":
            for ours, its in self._pairs():
                ours.grad = (ours - its).detach()
        self._optimizer.step()

    def _pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        return list(zip(self._common.parameters(), self._copy.parameters(), strict=True))
