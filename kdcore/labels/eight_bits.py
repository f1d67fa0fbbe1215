"""Log-probabilities in 8 bits, as `dense` and `topk` keep them.

A log-probability l is kept as the byte round(53 sqrt(-l)), capped at 254; 255 is probability zero. The square root
spends the steps where probabilities are large: a probability is off by at most 1.9 % at 1/e, 5 % at 1e-3 and 9 % at
1e-9, the cap is at e^-23. In general l is off by at most sqrt(-l) / 53 + 1e-4, so that the log of a label's sum is off
by about sqrt(entropy) / 53 at most (Jensen): 0.066 at 150,000 classes. Readers renormalise.
"""

import torch
from torch import Tensor

__all__ = ["MAX_LOG_SUM_8BIT", "from_bytes", "to_bytes"]

MAX_LOG_SUM_8BIT = 0.1
"""What the log of a label's sum may be off by; more is damage."""
_STEPS_PER_ROOT = 53.0
_ZERO = 255


def to_bytes(log_probs: Tensor) -> Tensor:
    """Log-probabilities, float of any shape, to uint8."""
    steps = (log_probs.neg().clamp(min=0).sqrt() * _STEPS_PER_ROOT).round().clamp(max=_ZERO - 1)
    return torch.where(torch.isneginf(log_probs), float(_ZERO), steps).to(torch.uint8)


def from_bytes(values: Tensor) -> Tensor:
    """uint8 to log-probabilities float32."""
    # In place: memory for dense labels is large, and new each time.
    found = values.float().div_(_STEPS_PER_ROOT).square_().neg_()
    return found.masked_fill_(values == _ZERO, float("-inf"))
