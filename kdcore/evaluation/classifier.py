"""Quality of a classifier on held-out samples, alone and beside its teacher."""

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdcore.data.document import ImageSample, Sample
from kdcore.errors import DataError, TrainingError
from kdcore.evaluation.calibration import Calibration

__all__ = ["evaluate_classifier", "image_batches"]

Inputs = TypeVar("Inputs")


def evaluate_classifier(
    model: Callable[[Inputs], Tensor],
    batches: Iterable[tuple[Inputs, Tensor]],
    teacher: Callable[[Inputs], Tensor] | None = None,
    *,
    bins: int = 15,
) -> dict[str, float]:
    """Loss (nats), accuracy, ece and the number of samples; with a teacher also agreement (share of equal top-1).

    `batches` are inputs with their classes int64 [B]; `model` and `teacher` give logits [B, C] for the inputs.
    """
    loss, correct, agreed, count, calibration = 0.0, 0, 0, 0, Calibration(bins)
    with torch.inference_mode():
        for inputs, targets in batches:
            log_probs = functional.log_softmax(model(inputs).float(), dim=-1).cpu()
            confidence, top = log_probs.max(-1)
            loss -= float(log_probs.gather(1, targets[:, None]).double().sum())
            correct += int((top == targets).sum())
            count += len(targets)
            calibration.update(confidence.exp(), top == targets)
            if teacher is not None:
                agreed += int((teacher(inputs).argmax(-1).cpu() == top).sum())
    if not count:
        raise DataError("evaluation needs held-out samples with a class; got none")
    if not math.isfinite(loss):
        raise TrainingError(f"the held-out loss must be finite, got {loss}; the weights hold NaN or infinity")
    result = {"loss": loss / count, "accuracy": correct / count, "ece": calibration.error(), "samples": count}
    return result if teacher is None else {**result, "agreement": agreed / count}


def image_batches(images: Iterable[Sample], batch: int, device: str = "cpu") -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels float32 [B, C, H, W] on `device` and classes int64 [B] of the images that have one."""
    known = (image for image in images if isinstance(image, ImageSample) and image.target is not None)
    while part := list(islice(known, batch)):
        pixels = torch.from_numpy(np.stack([image.pixels for image in part])).to(device)
        yield pixels, torch.tensor([image.target for image in part])
