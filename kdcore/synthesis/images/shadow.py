"""The unit's own student: it learns as images are made, and tells where it still differs from the teacher."""

import math

import torch
from torch import Tensor, nn

from kdcore.config.synthesis.images import ImageSettings
from kdcore.errors import ConfigError, LabelError
from kdcore.losses.feature.attention_transfer import attention_transfer
from kdcore.synthesis.images.disagreement import kl
from kdcore.synthesis.images.passes import in_precision
from kdcore.synthesis.images.pixels import PixelSpace
from kdcore.synthesis.images.pool import ImagePool
from kdcore.taps import Taps, feature_shapes

__all__ = ["ShadowStudent"]


class ShadowStudent:
    """A student that exists for the length of a unit. It learns by KL at settings.temperature, by Adam.

    With `attention` also by attention transfer, summed over the pairs of layers (ZSKT, Micaelli and Storkey 2019,
    arXiv:1905.09768): as in the authors' code the mean of squared differences of normalised maps, where the
    paper has their length. ConfigError where a layer of the pairs is not there, or gives no maps.
    """

    def __init__(self, network: nn.Module, teacher: nn.Module, settings: ImageSettings, space: PixelSpace) -> None:
        self.network, self._teacher, self._settings, self._space = network.train(), teacher, settings, space
        self._optimizer = torch.optim.Adam(network.parameters(), settings.student_learning_rate)
        self._taps = self._tapped(network, 0, "the student"), self._tapped(teacher, 1, "the teacher")

    def logits(self, seen: Tensor) -> Tensor:
        """Its answers, in the statistics of what it has learnt; gradients reach the images alone. Float32."""
        self.network.eval().requires_grad_(False)
        answers = self._answers(self.network, seen)
        self.network.train().requires_grad_(True)
        return answers

    def learn(self, fresh: Tensor, pool: ImagePool, steps: int) -> float:
        """Some steps on new pixels [B, C, H, W] and a share of remembered ones; the mean loss.

        LabelError when it is not finite.
        """
        settings, losses = self._settings, []
        remembered = round(settings.replay * settings.student_batch_size) if pool.size else 0
        for _ in range(steps):
            rows = torch.randint(0, len(fresh), (settings.student_batch_size - remembered,))
            pixels = fresh[rows].detach()
            if remembered:
                pixels = torch.cat([pixels, pool.sample(remembered).to(pixels.device)])
            losses.append(self._step(self._space.seen(pixels)))
        mean = sum(losses) / max(1, len(losses))
        if not math.isfinite(mean):
            raise LabelError(
                f"A unit's own student must learn at a finite loss, got {mean}: its descent diverged. Lower "
                "synthesis.student_learning_rate, or set synthesis.precision to float32"
            )
        return mean

    def _step(self, seen: Tensor) -> float:
        ours, theirs = self._taps
        with torch.no_grad(), theirs:
            wanted = self._answers(self._teacher, seen)
        with ours:
            given = self._answers(self.network, seen)
        loss = kl(given, wanted, self._settings.temperature).mean()
        for here, there in self._settings.attention_pairs:
            loss = loss + self._settings.attention * attention_transfer(ours.outputs[here], theirs.outputs[there])
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss.item()

    def _answers(self, network: nn.Module, seen: Tensor) -> Tensor:
        with in_precision(self._settings.precision, seen.device):
            return network(seen).float()

    def _tapped(self, network: nn.Module, side: int, whose: str) -> Taps:
        paths = {pair[side]: "synthesis.attention_pairs" for pair in self._settings.attention_pairs}
        taps = Taps(network, paths, whose)
        if paths:
            image = torch.zeros(1, *self._space.shape, device=next(network.parameters()).device)
            for path, shape in feature_shapes(network, taps, image).items():
                if len(shape) != 3:
                    raise ConfigError(
                        f"synthesis.attention_pairs must name modules that give maps [B, C, H, W]; {taps.said(path)} "
                        f"in {whose} gives {['B', *shape]}: name convolutional layers"
                    )
        return taps
