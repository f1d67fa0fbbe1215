"""How far a student is from its teacher on made images: what adversarial methods raise."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["agreed_kl", "jensen_shannon", "kl"]


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of each row [B] of logits [B, C], times the square of the temperature."""
    log_student = (student / temperature).log_softmax(-1)
    log_teacher = (teacher / temperature).log_softmax(-1)
    return functional.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(-1) * temperature**2


def jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    """JS divergence of each row [B] of logits [B, C], in units of log 2, so within 0 .. 1."""
    log_student, log_teacher = student.log_softmax(-1), teacher.log_softmax(-1)
    log_middle = torch.logaddexp(log_student, log_teacher) - torch.log(torch.tensor(2.0))
    ways = [
        functional.kl_div(log_middle, side, reduction="none", log_target=True).sum(-1)
        for side in (log_student, log_teacher)
    ]
    return (ways[0] + ways[1]) / (2 * torch.log(torch.tensor(2.0)))


def agreed_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) [B] where both choose the same class, else 0: at a student's borders, not beyond."""
    agree = student.argmax(-1) == teacher.argmax(-1)
    return kl(student, teacher) * agree
