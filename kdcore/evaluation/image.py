"""Quality of an image classifier on held-out images, alone and beside its teacher."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from kdcore.data.document import ImageSample
from kdcore.errors import DataError, TrainingError
from kdcore.evaluation.calibration import Calibration

__all__ = ["evaluate_classifier"]

Classifier = Callable[[torch.Tensor], torch.Tensor]


def evaluate_classifier(
    model: Classifier,
    images: Sequence[ImageSample],
    teacher: Classifier | None = None,
    *,
    batch: int = 16,
    bins: int = 15,
    device: str = "cpu",
) -> dict[str, float]:
    """Loss (nats), accuracy, ece and the number of images; with a teacher also agreement (share of equal top-1).

    `model` and `teacher` take f32 [B, C, H, W] and return logits [B, classes]. Images without a class are left out.
    """
    known = [image for image in images if image.target is not None]
    if not known:
        raise DataError("evaluation needs held-out images with a class; got none")
    loss, correct, agreed, calibration = 0.0, 0, 0, Calibration(bins)
    with torch.inference_mode():
        for first in range(0, len(known), batch):
            part = known[first : first + batch]
            pixels = torch.from_numpy(np.stack([image.pixels for image in part])).to(device)
            targets = torch.tensor([image.target for image in part])
            log_probs = functional.log_softmax(model(pixels).float(), dim=-1).cpu()
            confidence, top = log_probs.max(-1)
            loss -= float(log_probs.gather(1, targets[:, None]).double().sum())
            correct += int((top == targets).sum())
            calibration.update(confidence.exp(), top == targets)
            if teacher is not None:
                agreed += int((teacher(pixels).argmax(-1).cpu() == top).sum())
    if not math.isfinite(loss):
        raise TrainingError(f"the held-out loss must be finite, got {loss}; the weights hold NaN or infinity")
    count = len(known)
    result = {"loss": loss / count, "accuracy": correct / count, "ece": calibration.error(), "images": count}
    return result if teacher is None else {**result, "agreement": agreed / count}
