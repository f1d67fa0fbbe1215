"""A small image teacher, and recipes whose labels belong to views of scikit-learn's digits."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cluster.labelling.run import PoolMaker, label_store
from kdcore.config import Recipe
from kdcore.models.convnet import ConvNet
from tests.support.labelling_runs import in_process

POLICY = {
    "per_image": 3,
    "crop": {"type": "pad", "padding": 2},
    "flip": 0.5,
    "erase": 0.3,
    "mix": {"mixup": 0.4, "cutmix": 1.0, "probability": 0.5},
}
NETWORK: dict[str, Any] = {"type": "image_classifier", "source": "convnet", "kwargs": {"width": 6, "depth": 2}}


def write_teacher(folder: Path, seed: int = 0) -> str:
    """Weights, not trained, but large enough to tell pictures apart."""
    torch.manual_seed(seed)
    state = ConvNet(10, 1, width=6, depth=2).state_dict()
    path = folder / "teacher.safetensors"
    save_file({name: tensor * (6 if tensor.ndim > 1 else 1) for name, tensor in state.items()}, path)
    return str(path)


def viewed_recipe(root: Path, name: str, views: dict[str, Any] | None = POLICY, **changes: Any) -> Recipe:
    """Digits, some of their views, a teacher with the weights in ROOT; keyword arguments replace whole sections."""
    return Recipe.model_validate(
        {
            "name": name,
            "runs": str(root / "runs"),
            "data": {"type": "digits", "max_samples": 40, "views": views},
            "teacher": {**NETWORK, "path": str(root / "teacher.safetensors"), "batch_size": 16},
            "labels": {"path": str(root / name), "unit_bytes": 640, "codec": {"type": "dense", "bits": 8}},
            "student": NETWORK,
            "training": {"steps": 6, "batch_size": 10, "log_every_steps": 1},
            **changes,
        }
    )


def label(recipe: Recipe, pool: PoolMaker = in_process) -> str:
    """The recipe's store, made in this process."""
    return label_store(recipe, lambda note: None, pool)
