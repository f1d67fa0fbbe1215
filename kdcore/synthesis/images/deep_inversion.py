"""DeepInversion and its adaptive form (Yin et al. 2020, arXiv:1912.08795)."""

from torch import Tensor

from kdcore.config.synthesis.images import DeepInversionConfig
from kdcore.synthesis.images.disagreement import jensen_shannon
from kdcore.synthesis.images.inversion import Canvas, Inversion, pixel_canvas

__all__ = ["DeepInversion"]


class DeepInversion(Inversion[DeepInversionConfig]):
    """Pixels by cross-entropy, total variation, l2 and the distance to BatchNorm's statistics.

    Adaptive: plus adversarial x (1 - JS(teacher, student)), JS in 0 .. 1. The paper's weights are of norms over whole
    batches; here terms are means, so that weights do not depend on the number of images.
    """

    def canvas(self, targets: Tensor) -> Canvas:
        """Pixels."""
        return pixel_canvas(len(targets), self.space, self.device)

    def agreement(self, seen: Tensor, logits: Tensor) -> Tensor:
        """1 - JS."""
        assert self.student is not None
        return 1 - jensen_shannon(self.student.logits(seen), logits).mean()
