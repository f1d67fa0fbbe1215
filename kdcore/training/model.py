"""The trained module: a batch in, the summed loss out.

The loss is computed inside `forward`, so that wrappers which move or shard parameters around a forward pass (DDP,
ZeRO-3) see every use of them, the head's included.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from kdcore.config import TrainingConfig
from kdcore.losses.objective import METRICS, objective_of
from kdcore.losses.response.mixed_targets import partner_excess
from kdcore.losses.response.soft_targets import soft_target_loss
from kdcore.training.batches import Batch, TextBatch
from kdcore.training.composition import Composition, inputs_of
from kdcore.training.logits import logits_of
from kdcore.training.ranks import Ranks
from kdcore.training.statistics import Kept, at_rest, saved_buffers, unmoved
from kdcore.training.text_loss import text_loss
from kdcore.training.text_terms import TextTerms


class DistillModel(nn.Module):
    """A student and its loss. `forward(batch, progress)` returns (loss sum, detached sums of `measures`)."""

    def __init__(
        self, student: nn.Module, config: TrainingConfig, uses_labels: bool, composition: Composition | None = None
    ) -> None:
        super().__init__()
        self.student = student
        self.config = config
        self.objective = objective_of(config.loss, config.loss.hard_weight if uses_labels else 1.0)
        self.composition = composition
        self.losses = None if composition is None else composition.losses
        # Of text: a baseline's is the cross-entropy alone, whatever is listed.
        listed = config.losses if composition is None and uses_labels else ()
        self.terms = TextTerms(listed) if listed else None
        own = METRICS if self.terms is None else (*METRICS, *self.terms.names)
        self.measures: tuple[str, ...] = own if composition is None else composition.measures
        self._before_step: Kept | None = None

    def forward(self, batch: Batch, progress: float = 0.0) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one micro-batch, summed over its valid tokens or images, after a share `progress` of the steps."""
        if self._before_step is None and self.config.on_bad_step == "skip":
            # Memories, which are large, keep the rows of a step themselves.
            self._before_step = Kept(saved_buffers(self, () if self.losses is None else self.losses.memories()))
        with nullcontext() if len(batch.targets) else at_rest(self):
            return self._loss(batch, progress)

    def recomputing(self, batch: Batch) -> AbstractContextManager[None]:
        """Around the backward pass of the batch's loss: what is computed again there changes no statistics twice."""
        if not self.config.activation_checkpointing:
            return nullcontext()
        return unmoved(self) if len(batch.targets) else at_rest(self)

    def _loss(self, batch: Batch, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        if isinstance(batch, TextBatch) and self.terms is not None:
            return self.terms.loss(self.student, batch, self.config.loss, progress)
        if isinstance(batch, TextBatch):
            return text_loss(self.student, batch, self.objective, self.config.loss)
        if self.composition is not None:
            return self.composition.loss(batch, progress)
        count = len(batch.targets)
        labels = batch.labels if count or batch.labels is None else batch.labels.index(slice(0))
        logits = logits_of(self.student, inputs_of(batch, self.student), "the student")[:count]
        loss, metrics = soft_target_loss(logits, labels, batch.targets, objective=self.objective)
        if batch.partner_targets is None or batch.shares is None:
            return loss, metrics
        excess = partner_excess(logits, batch.targets, batch.partner_targets, batch.shares)
        metrics["cross_entropy"] = metrics["cross_entropy"] + excess.detach()
        return loss + self.objective.hard_weight * excess, metrics

    def leaves_out(self) -> bool:
        """Whether some step may leave trained parameters without a gradient, as the losses change their weights."""
        return self.losses is not None and self.losses.leaves_out()

    def settle(self, accepted: bool, ranks: Ranks) -> None:
        """After each step, on all ranks: what losses remember is the same on all, and nothing of a refused step.

        Nor do running statistics and other buffers know of a refused step, whose numbers may not be finite.
        """
        if self._before_step is not None and not accepted:
            self._before_step.restore()
        self._before_step = None
        if self.composition is not None:
            self.composition.memories.settle(accepted, ranks)


def num_parameters(module: nn.Module, trained: bool = False) -> int:
    """Parameters, or those that are `trained`; shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trained)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seeds dropout for one step of one rank, so that a resumed run draws the same masks."""
    torch.manual_seed(((seed * 1_000_003 + step) * 4_099 + rank) % 2**63)  # torch takes 64 bits
