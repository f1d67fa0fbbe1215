"""Hard labels of pictures that are mixed of two images (mixup, Zhang et al., arXiv:1710.09412; CutMix, 1905.04899)."""

from torch import Tensor

__all__ = ["partner_excess"]


def partner_excess(logits: Tensor, targets: Tensor, partner_targets: Tensor, shares: Tensor) -> Tensor:
    """What the cross-entropy of mixed targets is above that of `targets` alone, summed over N pictures, a scalar.

    s CE(t) + (1 - s) CE(p) = CE(t) + (1 - s) (z_t - z_p), as the normaliser of the softmax is the same for both:
    `logits` [N, C] float z, `targets` t and `partner_targets` p int64 [N], `shares` s float32 [N] in [0, 1].
    """
    wide = logits.float() if logits.dtype.itemsize < 4 else logits
    own, other = (wide.gather(1, classes[:, None]).squeeze(1) for classes in (targets, partner_targets))
    return ((1 - shares.to(wide.dtype)) * (own - other)).sum()
