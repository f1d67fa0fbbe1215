"""Total variation distance."""

from torch import Tensor


def total_variation(log_t: Tensor, log_p: Tensor, singles: int) -> tuple[Tensor, Tensor]:
    """Half of sum |t - p|; where both are equal the slope is 0, one of its subgradients."""
    p = log_p.exp()
    above = p - log_t.exp()
    return above.abs().sum(-1) / 2, above.sign() * p / 2
