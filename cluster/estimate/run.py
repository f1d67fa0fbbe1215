"""What a run would cost, from a few samples and a moment of teacher and student."""

from dataclasses import dataclass

from kdcore.config.data import kind_of
from kdcore.config.recipe import Recipe

__all__ = ["Estimate", "estimate"]


@dataclass(frozen=True)
class Estimate:
    """What a run would cost: samples, labels, bytes of the store, seconds of labelling and of training.

    `refused`: why it would end before its first step, as far as the documents that were read show; else "".
    """

    samples: int
    labels: int
    store_bytes: int
    label_seconds: float
    train_seconds: float
    refused: str = ""


def estimate(recipe: Recipe, live: bool = False) -> Estimate:
    """Read a few samples, run teacher and student for a moment, and scale up; `live`: the teacher runs in training.

    Raises DataError where none of the samples can be read, and what loading the teacher does.
    """
    import torch

    from cluster.estimate.classified import estimate_classified
    from cluster.estimate.images import estimate_images
    from cluster.estimate.text import estimate_text

    torch.set_num_threads(max(1, int(recipe.cluster.cpus_per_replica)))
    kind = kind_of(recipe.data)
    if kind == "text":
        return estimate_text(recipe)
    return estimate_images(recipe, live) if kind == "image" else estimate_classified(recipe, live)
