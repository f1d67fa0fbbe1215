"""From a causal LM and a batch of texts to the loss, without a [tokens, vocabulary] tensor."""

from typing import Any, get_args

import torch
from torch import Tensor, nn

from kdcore.config.loss import ChunkForm, LossConfig
from kdcore.errors import ConfigError
from kdcore.labels.chunk_labels import ChunkLabels
from kdcore.labels.opening_labels import OpeningLabels
from kdcore.labels.soft_labels import SoftLabels
from kdcore.losses.cross_tokenizer.likelihood import likelihood_loss
from kdcore.losses.cross_tokenizer.opening import opening_loss
from kdcore.losses.cross_tokenizer.path import path_log_probs
from kdcore.losses.objective import METRICS, Objective
from kdcore.losses.sparse.head import LogitRules, logit_rules
from kdcore.losses.sparse.loss import distillation_loss_from_hidden
from kdcore.losses.sparse.support import check_fit
from kdcore.training.batches import TextBatch

__all__ = ["head_of", "loss_of_hidden", "rules_of", "student_hidden", "text_loss"]


def text_loss(
    student: nn.Module, batch: TextBatch, objective: Objective, settings: LossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum over the batch's tokens of `objective`, and detached sums of METRICS.

    Of labels of another tokenizer's chunks of text it is (1 - hard_weight) x what `settings` compare them by +
    hard_weight x cross-entropy; `kl` is the former then, `support_mass` the share of tokens in a chunk, `agreement`
    nothing.

    `student` is a causal LM of transformers: its decoder runs, then the loss takes the head's weight. Raises LabelError
    before that where the student has fewer classes than the labels, ConfigError for a loss across tokenizers of labels
    that are not, and what distillation_loss_from_hidden raises.
    """
    labels = batch.labels
    across = isinstance(labels, ChunkLabels | OpeningLabels)
    if settings.is_sorted and labels is not None and not isinstance(labels, OpeningLabels):
        raise ConfigError(
            f"the loss '{settings.type}' compares tokens of two tokenizers where both begin one, which a recipe finds "
            "(training.loss.type): train with `kd train`, or set another type"
        )
    head = head_of(student)
    check_fit(None if across else labels, batch.targets, len(batch.positions), _num_outputs(head))
    hidden = student_hidden(student, batch)
    if isinstance(labels, ChunkLabels | OpeningLabels):
        return _loss_across(hidden, head, batch.targets, labels, rules_of(student), settings)
    return loss_of_hidden(student, hidden, head, labels, batch.targets, objective, settings)


def rules_of(student: nn.Module) -> LogitRules:
    """What a causal LM does to its head's outputs."""
    model: Any = student
    return logit_rules(model.config)


def head_of(student: nn.Module) -> Any:
    """The layer that makes logits of a causal LM's hidden states."""
    model: Any = student
    return model.get_output_embeddings()


def student_hidden(student: nn.Module, batch: TextBatch) -> Tensor:
    """The last hidden states [N, D] of a causal LM at the batch's labelled positions."""
    model: Any = student
    return model.get_decoder()(**batch.inputs(), use_cache=False).last_hidden_state.flatten(0, 1)[batch.positions]


def loss_of_hidden(
    student: nn.Module,
    hidden: Tensor,
    head: Any,
    labels: SoftLabels | None,
    targets: Tensor,
    objective: Objective,
    settings: LossConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The summed loss of N tokens, as `distillation_loss_from_hidden` makes it with these settings."""
    return distillation_loss_from_hidden(
        hidden,
        head.weight,
        labels,
        targets,
        objective=objective,
        head_bias=getattr(head, "bias", None),
        rules=rules_of(student),
        num_classes=settings.num_classes,
        chunk_tokens=settings.chunk_tokens,
        recompute=bool(settings.recompute),
        implementation=settings.implementation,
        gradient_filter=settings.gradient_filter,
    )


def _loss_across(
    hidden: Tensor,
    head: Any,
    targets: Tensor,
    labels: ChunkLabels | OpeningLabels,
    rules: LogitRules,
    settings: LossConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    common: dict[str, Any] = {
        "head_bias": getattr(head, "bias", None),
        "rules": rules,
        "num_classes": settings.num_classes,
        "chunk_tokens": settings.chunk_tokens,
    }
    path = path_log_probs(hidden, head.weight, targets, labels.boundary_ids, **common)
    if isinstance(labels, OpeningLabels):
        assert settings.is_sorted  # else there are other labels
        soft = opening_loss(hidden, head.weight, path, labels, beta=settings.parameters.get("beta"), **common)
    else:
        assert settings.type in get_args(ChunkForm)  # recipes with another are refused
        form: Any = settings.type
        soft = likelihood_loss(path.log_probs, path.boundary_log_probs, labels, form, settings.chunk_temperature)
    cross_entropy = -path.log_probs.sum()
    inside = (labels.chunk >= 0).sum().to(soft.dtype)
    found = {
        "kl": soft,
        "cross_entropy": cross_entropy,
        "agreement": torch.zeros_like(soft),
        "entropy": path.entropy.sum(),
        "support_mass": inside,
        "tokens": torch.full_like(soft, len(targets)),
    }
    loss = (1 - settings.hard_weight) * soft + settings.hard_weight * cross_entropy
    return loss, {name: found[name].detach() for name in METRICS}


def _num_outputs(head: Any) -> int:
    # The weight itself may be elsewhere now: ZeRO-3 gathers it when it is used.
    return head.out_features if isinstance(head, nn.Linear) else head.weight.shape[0]
