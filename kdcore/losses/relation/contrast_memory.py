"""CRD's memory: of every sample of the training set an embedding of each network."""

import torch
from torch import Tensor

from kdcore.losses.numerics import Exact, unit

__all__ = ["ContrastMemory"]


class ContrastMemory(Exact):
    """Rows of length one by the numbers of samples, `student` and `teacher` [N, D], and what else a run must keep.

    Buffers, so that checkpoints hold them: 8 N D bytes. Of several ranks each sees within a step the rows that its own
    micro-batches moved, and after the step those of all (a memory in the sense of Method).
    """

    student: Tensor
    teacher: Tensor
    normalisers: Tensor
    drawn: Tensor
    seed: Tensor

    def __init__(self, samples: int, width: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        bound = (3 / width) ** 0.5
        for name in ("student", "teacher"):
            self.register_buffer(name, (2 * torch.rand(samples, width) - 1) * bound)
        self.register_buffer("normalisers", torch.full((2,), -1.0))
        self.register_buffer("drawn", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seed", torch.tensor(torch.initial_seed() % 2**62))

    def draw(self, batch: int, count: int) -> Tensor:
        """Numbers of samples [batch, count], each as likely, by torch's seed and how often this was called before.

        Not from torch's own generator: its state is in no checkpoint.
        """
        generator = torch.Generator(self.drawn.device).manual_seed(int(self.seed + self.drawn))
        self.drawn = self.drawn + 1
        return torch.randint(len(self.student), (batch, count), generator=generator, device=self.drawn.device)

    def scores(self, student: Tensor, teacher: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines [B, K] of embeddings [B, D] with the rows `numbers` [B, K] of the other network's memory.

        Products with all rows, of which K are kept: copies of the rows would take D times as much.
        """
        with_teacher = (student @ self.teacher.mT).gather(1, numbers)
        with_student = (teacher @ self.student.mT).gather(1, numbers)
        return with_teacher, with_student

    def normalise(self, densities: Tensor) -> Tensor:
        """Z of both sides, [2]: for good N times the first `densities` [2], which are means of exp(score / T)."""
        normalisers = torch.where(
            self.normalisers < 0, densities.detach().float() * len(self.student), self.normalisers
        )
        if self.training:
            self.normalisers = normalisers
        return normalisers

    @torch.no_grad()
    def remember(self, student: Tensor, teacher: Tensor, indices: Tensor) -> None:
        """Move the rows of samples `indices` towards their embeddings [B, D]; outside of training nothing moves."""
        if self.training:
            self.student = self._moved(self.student, student, indices)
            self.teacher = self._moved(self.teacher, teacher, indices)

    def _moved(self, memory: Tensor, embeddings: Tensor, indices: Tensor) -> Tensor:
        mixed = self.momentum * memory[indices] + (1 - self.momentum) * embeddings.to(memory.dtype)
        # A copy: the loss of this batch still needs the memory as it was.
        return memory.index_copy(0, indices, unit(mixed))
