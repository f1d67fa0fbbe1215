"""From a causal LM and a batch of texts to the loss, without a [tokens, vocabulary] tensor."""

from typing import Any

from torch import Tensor, nn

from kdcore.config.loss import LossConfig
from kdcore.losses.objective import Objective
from kdcore.losses.sparse.head import logit_rules
from kdcore.losses.sparse.loss import distillation_loss_from_hidden
from kdcore.losses.sparse.support import check_fit
from kdcore.training.batches import TextBatch

__all__ = ["text_loss"]


def text_loss(
    student: nn.Module, batch: TextBatch, objective: Objective, settings: LossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum over the batch's tokens of `objective`, and detached sums of METRICS.

    `student` is a causal LM of transformers: its decoder runs, then the loss takes the head's weight. Raises LabelError
    before that where the student has fewer classes than the labels, and what distillation_loss_from_hidden raises.
    """
    model: Any = student
    head = model.get_output_embeddings()
    check_fit(batch.labels, batch.targets, len(batch.positions), _num_outputs(head))
    hidden = model.get_decoder()(**batch.inputs(), use_cache=False).last_hidden_state
    return distillation_loss_from_hidden(
        hidden.flatten(0, 1)[batch.positions],
        head.weight,
        batch.labels,
        batch.targets,
        objective=objective,
        head_bias=head.bias,
        rules=logit_rules(model.config),
        num_classes=settings.num_classes,
        chunk_tokens=settings.chunk_tokens,
        recompute=bool(settings.recompute),
        implementation=settings.implementation,
        gradient_filter=settings.gradient_filter,
    )


def _num_outputs(head: Any) -> int:
    # The weight itself may be elsewhere now: ZeRO-3 gathers it when it is used.
    return head.out_features if isinstance(head, nn.Linear) else head.weight.shape[0]
