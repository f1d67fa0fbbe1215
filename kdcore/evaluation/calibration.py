"""Expected calibration error: how far a model's confidence is from its accuracy."""

import torch

__all__ = ["Calibration"]


class Calibration:
    """Counts predictions in equal bins of confidence; `error()` is the L1 calibration error in [0, 1]."""

    def __init__(self, bins: int) -> None:
        self.edges = torch.linspace(0, 1, bins + 1)
        self.counts = torch.zeros(bins, dtype=torch.float64)
        self.confidence = torch.zeros(bins, dtype=torch.float64)
        self.correct = torch.zeros(bins, dtype=torch.float64)

    def update(self, confidence: torch.Tensor, correct: torch.Tensor) -> None:
        """Add predictions: confidence [N] f32 in [0, 1], correct [N] bool."""
        confidence = confidence.detach().float().cpu().clamp(0, 1)
        index = torch.bucketize(confidence, self.edges, right=True).sub(1).clamp(0, len(self.counts) - 1)
        self.counts.index_add_(0, index, torch.ones_like(confidence, dtype=torch.float64))
        self.confidence.index_add_(0, index, confidence.double())
        self.correct.index_add_(0, index, correct.detach().cpu().double())

    def error(self) -> float:
        """Mean |accuracy - confidence| over the bins, weighted by their share of predictions; 0 without any."""
        total = float(self.counts.sum())
        return float((self.correct - self.confidence).abs().sum()) / total if total else 0.0
