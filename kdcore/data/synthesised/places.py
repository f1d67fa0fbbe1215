"""Where a run keeps the samples that its teacher made."""

from pathlib import Path

from kdcore.config import Recipe

__all__ = ["samples_folder", "units_folder"]


def samples_folder(recipe: Recipe) -> Path:
    """What is kept: RUN/samples."""
    return recipe.run_dir / "samples"


def units_folder(recipe: Recipe, generation: int) -> Path:
    """The units of a generation: RUN/synthesis/generation-NNN."""
    return recipe.run_dir / "synthesis" / f"generation-{generation:03d}"
