"""Where a run keeps the samples that its teacher made."""

from pathlib import Path

from kdcore.config import Recipe

__all__ = ["labels_folder", "samples_folder", "units_folder"]


def samples_folder(recipe: Recipe) -> Path:
    """What is kept: RUN/samples."""
    return recipe.run_dir / "samples"


def units_folder(recipe: Recipe, generation: int) -> Path:
    """The units of a generation: RUN/synthesis/generation-NNN."""
    return recipe.run_dir / "synthesis" / f"generation-{generation:03d}"


def labels_folder(recipe: Recipe, generation: int) -> str:
    """The store of the labels that came with the samples of all generations up to this one; of all, the recipe's."""
    assert recipe.synthesis is not None
    last = generation == recipe.synthesis.generations - 1
    return recipe.store_path if last else str(recipe.run_dir / "synthesis" / f"labels-{generation:03d}")
