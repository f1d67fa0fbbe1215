"""The classic response loss on logits that exist anyway: images, small numbers of classes."""

import torch
from torch import Tensor
from torch.nn import functional

from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import DenseLabels, SoftLabels
from kdcore.losses.cells import METRICS, check_fit
from kdcore.losses.sparse import distillation_loss_from_logits


def soft_target_loss(
    student_logits: Tensor,
    labels: SoftLabels | None,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    hard_weight: float = 0.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum over B samples of (1 - hard_weight) T^2 KL(teacher_T || student_T) + hard_weight cross-entropy.

    `student_logits` [B, C] float, `targets` [B] int64. A temperature other than 1 needs dense labels, since a tail cell
    cannot be re-tempered: ConfigError otherwise. Without labels the loss is the cross-entropy.
    Returns the scalar sum and the same detached sums as `distillation_loss_from_hidden`.
    """
    check_fit(labels, targets, student_logits.shape[0], student_logits.shape[1])
    logits = student_logits.float()
    if labels is None or temperature == 1.0:
        return distillation_loss_from_logits(logits, labels, targets, hard_weight=hard_weight)
    if not isinstance(labels, DenseLabels):
        raise ConfigError(
            f"training.loss.temperature is {temperature}, which needs every class's probability, but the labels have a "
            "tail cell; set labels.codec.type: dense, or the temperature to 1"
        )
    return _tempered(logits, labels, targets, temperature, hard_weight)


def _tempered(
    logits: Tensor, labels: DenseLabels, targets: Tensor, temperature: float, hard_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    # Log-probabilities are logits up to a constant per row, which the softmax removes.
    log_t = functional.log_softmax(labels.log_probs.to(logits.dtype) / temperature, -1)
    log_p = functional.log_softmax(logits / temperature, -1)[:, : log_t.shape[1]]
    kl = temperature**2 * functional.kl_div(log_p, log_t, reduction="sum", log_target=True)
    cross_entropy = functional.cross_entropy(logits, targets, reduction="sum")
    agreement = (logits.argmax(-1) == labels.log_probs.argmax(-1)).sum()
    tokens = torch.tensor(float(len(targets)), device=logits.device)
    loss = (1 - hard_weight) * kl + hard_weight * cross_entropy
    sums = (kl, cross_entropy, agreement.to(logits.dtype), tokens)
    return loss, {name: value.detach() for name, value in zip(METRICS, sums, strict=True)}
