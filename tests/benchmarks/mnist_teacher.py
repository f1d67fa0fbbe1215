"""The teacher of Hinton, Vinyals and Dean's MNIST experiment, in plain torch: dropout, max-norm, jittered input.

arXiv:1503.02531, section 3, which takes its regularisers from Hinton et al. 2012 (arXiv:1207.0580): half of the hidden
units and a fifth of the pixels are left out, and the weights into a unit have a norm of sqrt(15) at most.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdcore.config.models import ImageClassifierConfig
from kdcore.models.image import build_image_model, save_image_model

NETWORK = ImageClassifierConfig(
    source="mlp", kwargs={"hidden": [1200, 1200], "size": 28, "dropout_input": 0.2, "dropout": 0.5}
)
_BATCH, _RATE, _MOMENTUM, _JITTER = 250, 0.1, 0.95, 2
_MAX_NORM = math.sqrt(15)


def train_teacher(
    folder: Path, pixels: np.ndarray, classes: np.ndarray, epochs: int, say: Callable[[int, nn.Module], None]
) -> None:
    """Train on pixels float32 [N, 28, 28] in 0 .. 1 and export to `folder`; a run that was stopped goes on.

    `say` is told every fifth epoch and the network. The rate falls linearly to zero. On a GPU where there is one.
    """
    if (folder / "model.json").exists():
        return
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = build_image_model(NETWORK, 10, 1).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=_MOMENTUM, fused=True)
    state, first = folder.with_suffix(".state.pt"), 0
    if state.exists():
        held = torch.load(state, weights_only=True, map_location=device)
        model.load_state_dict(held["model"])
        optimizer.load_state_dict(held["optimizer"])
        first = held["epochs"]
    views, targets = _jittered(torch.from_numpy(pixels).to(device)), torch.from_numpy(classes).to(device)
    for epoch in range(first, epochs):
        torch.manual_seed(epoch)
        _train_epoch(model, optimizer, views, targets, epoch, epochs)
        if (epoch + 1) % 5 == 0:
            aside = state.with_suffix(".part")
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}, aside)
            aside.replace(state)
            say(epoch + 1, model)
    save_image_model(model.cpu().eval(), NETWORK, 10, 1, folder)
    state.unlink(missing_ok=True)


def _jittered(pixels: Tensor) -> Tensor:
    """Every shift of each image by up to two pixels, a view [N, 5, 5, 28, 28]."""
    side = pixels.shape[-1]
    return functional.pad(pixels, (_JITTER,) * 4).unfold(1, side, 1).unfold(2, side, 1)


def _train_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, views: Tensor, targets: Tensor, epoch: int, epochs: int
) -> None:
    model.train()
    batches = torch.randperm(len(targets), device=targets.device).split(_BATCH)
    for number, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (1 - (epoch + number / len(batches)) / epochs)
        down, right = torch.randint(0, 2 * _JITTER + 1, (2, len(batch)), device=batch.device)
        with torch.autocast(batch.device.type, torch.bfloat16):
            logits = model(views[batch, down, right][:, None])
        functional.cross_entropy(logits.float(), targets[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for layer in model.modules():
                if isinstance(layer, nn.Linear) and layer.out_features > 10:
                    layer.weight.copy_(torch.renorm(layer.weight, 2, 0, _MAX_NORM))
