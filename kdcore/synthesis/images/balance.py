"""As many images of each class."""

import math

import torch
from torch import Tensor

__all__ = ["balanced_targets", "class_balance"]


def balanced_targets(count: int, made: Tensor) -> Tensor:
    """`count` classes int64, each as often as another or once more, in random order.

    `made` int64 [C] is how many there are of each: those that have fewest get what is over.
    """
    num_classes = len(made)
    order = torch.randperm(num_classes)
    surplus = order[made[order].argsort(stable=True)][: count % num_classes]
    every = torch.arange(num_classes).repeat(count // num_classes)
    targets = torch.cat([every, surplus])
    return targets[torch.randperm(count)]


def class_balance(logits: Tensor) -> Tensor:
    """How far the mean distribution of a batch is from uniform, in nats: log C - H(mean softmax), at least 0.

    DAFL (arXiv:1904.01186) maximises the entropy alone, whose gradient is the same.
    """
    mean = logits.softmax(-1).mean(0)
    return math.log(logits.shape[-1]) + (mean * mean.clamp_min(1e-12).log()).sum()
