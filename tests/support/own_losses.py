"""Losses of a user's own, for tests: named in a recipe by `{type: import, name: tests.support.own_losses:CLASS}`."""

import torch
from torch import Tensor, nn

from kdcore.config.losses.own import OwnTerm
from kdcore.losses.method import LossInputs, Method, Shapes


class Logits(Method[OwnTerm]):
    """Mean square of what separates the logits."""

    needs_teacher_logits = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean over samples."""
        assert inputs.teacher_logits is not None
        return (inputs.student_logits - inputs.teacher_logits).float().square().mean()


class Labels(Method[OwnTerm]):
    """Of labels that name few classes: their number of classes."""

    needs_teacher_logits = True

    @classmethod
    def takes_labels(cls, term: OwnTerm, kind: str) -> bool:
        """All."""
        return True

    def forward(self, inputs: LossInputs) -> Tensor:
        """A constant."""
        assert inputs.labels is not None
        return inputs.student_logits.sum() * 0 + inputs.labels.num_classes


class Memory(Method[OwnTerm]):
    """A linear map of features towards what it made of the same sample last; buffers of both kinds."""

    rows: Tensor
    calls: Tensor

    def __init__(self, term: OwnTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.map = nn.Linear(torch.Size(shapes.student[term.at[0]]).numel(), 3)
        self.register_buffer("rows", torch.zeros(shapes.num_samples, 3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    @classmethod
    def memories_of(cls, term: OwnTerm) -> tuple[str, ...]:
        """One."""
        return ("rows",)

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean square of what changed, and a pull to one."""
        assert inputs.indices is not None
        made = self.map(inputs.student[self.term.at[0]].flatten(1).to(self.map.weight.dtype)).float()
        before = self.rows[inputs.indices].float()
        self.rows = self.rows.index_copy(0, inputs.indices, made.detach().to(self.rows.dtype))
        self.calls += 1
        return (made - before).square().mean() + 0.1 * (made - 1).square().mean()


class Jacobian(Method[OwnTerm]):
    """Size of the gradient of the best logit by the pixels."""

    needs_input_gradient = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """Mean square over samples."""
        best = inputs.student_logits.amax(1).sum()
        assert inputs.pixels is not None
        (slope,) = torch.autograd.grad(best, inputs.pixels, create_graph=True)
        return slope.square().mean()


class Live(Method[OwnTerm]):
    """Asks the teacher once more."""

    needs_live_teacher = True

    def forward(self, inputs: LossInputs) -> Tensor:
        """Distance of the student's logits and the teacher's of the mirrored image."""
        assert inputs.pixels is not None
        assert inputs.teacher_model is not None
        with torch.no_grad():
            theirs = inputs.teacher_model(inputs.pixels.flip(-1))
        return (inputs.student_logits - theirs).square().mean()


class Never(Method[OwnTerm]):
    """For a weight that is zero."""

    def forward(self, inputs: LossInputs) -> Tensor:
        """Not called."""
        raise AssertionError("a loss of weight zero is not computed")
