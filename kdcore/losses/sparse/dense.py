"""Loss and gradient of logits against every class's probability."""

import torch
from torch import Tensor

from kdcore.labels.soft_labels import DenseLabels
from kdcore.losses.forms import KL
from kdcore.losses.objective import Objective


def dense_loss(
    logits: Tensor, labels: DenseLabels, targets: Tensor, weights: Tensor | None, objective: Objective, grad: bool
) -> tuple[Tensor, Tensor | None]:
    """As `chunk_loss`: outputs [N, V] beyond the classes of the labels are one cell that the teacher gives nothing."""
    hard, temperature = objective.hard_weight, objective.temperature
    lse = logits.logsumexp(1)
    p = (logits - lse[:, None]).exp_()
    tempered, tempered_lse = logits, lse
    if temperature != 1:
        tempered = logits / temperature
        tempered_lse = tempered.logsumexp(1)
    log_t, log_p = _cells(tempered - tempered_lse[:, None], labels, temperature)
    divergence, slopes = objective.form(log_t, log_p, labels.num_classes)
    kl = divergence if objective.form.name == "kl" else KL(log_t, log_p, labels.num_classes)[0]
    square = temperature**2
    cross_entropy = lse - logits.gather(1, targets[:, None]).squeeze(1)
    loss = (1 - hard) * square * divergence + hard * cross_entropy
    best = logits.gather(1, labels.log_probs.argmax(1, keepdim=True)).squeeze(1)
    agreement = (best >= logits.amax(1)).to(lse.dtype)
    entropy = lse - torch.linalg.vecdot(p, logits)
    mass = p[:, : labels.num_classes].sum(1)
    rows = torch.stack([loss, square * kl, cross_entropy, agreement, entropy, mass, torch.ones_like(lse)])
    weights = torch.ones_like(lse) if weights is None else weights
    if not grad:
        return rows @ weights, None
    gradient = slopes - log_p.exp() * slopes.sum(1, keepdim=True)
    spread = _spread(gradient, tempered, labels.num_classes)
    gradient = p.mul_(hard).add_(spread, alpha=(1 - hard) * square / temperature)
    gradient.scatter_add_(1, targets[:, None], torch.full_like(targets, -hard, dtype=p.dtype)[:, None])
    return rows @ weights, gradient.mul_(weights[:, None])


def _cells(log_p: Tensor, labels: DenseLabels, temperature: float) -> tuple[Tensor, Tensor]:
    """Teacher and student [N, classes], and one cell more where the student has outputs beyond."""
    log_t, classes = labels.log_probs.to(log_p.dtype), labels.num_classes
    if temperature != 1:
        # Log-probabilities are logits up to a constant per row, which the softmax removes.
        log_t = torch.log_softmax(log_t / temperature, 1)
    if log_p.shape[1] == classes:
        return log_t, log_p
    rest = log_p[:, classes:].logsumexp(1, keepdim=True)
    nothing = torch.full_like(rest, float("-inf"))
    return torch.cat([log_t, nothing], 1), torch.cat([log_p[:, :classes], rest], 1)


def _spread(gradient: Tensor, logits: Tensor, classes: int) -> Tensor:
    """The gradient of cells over all outputs [N, V]: the last cell's over the outputs that it stands for."""
    if logits.shape[1] == classes:
        return gradient
    rest = logits[:, classes:].softmax(1) * gradient[:, classes:]
    return torch.cat([gradient[:, :classes], rest], 1)
