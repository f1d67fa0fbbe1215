"""Made images of all units, as Parquet files of the run."""

from cluster.synthesis.kinds import Gathering
from kdcore.config import Recipe
from kdcore.data.synthesised.gathering import Generation
from kdcore.data.synthesised.images import gather_images
from kdcore.data.synthesised.places import samples_folder, units_folder
from kdcore.store.beginning import read_identity

__all__ = ["gather"]


def gather(recipe: Recipe, task: Gathering) -> Generation:
    """Every image once, in the order of the units."""
    raw = units_folder(recipe, task.generation)
    return gather_images(raw, task.receipts, samples_folder(recipe), task.generation, task.asked, read_identity(raw))
