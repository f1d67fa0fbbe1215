"""What a report says of samples that the run's teacher made: figures of each generation, images or texts to look at."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from kdcore.config import Recipe
from kdcore.config.data import SynthesisedImagesData, image_form, kind_of
from kdcore.data.document import ImageSample, Split, TextDocument
from kdcore.data.sources import Source, open_source, readable
from kdcore.data.synthesised.gathering import read_generation
from kdcore.data.synthesised.places import samples_folder
from kdcore.data.synthesised.shards import to_bytes
from kdcore.data.viewed import without_views
from kdcore.errors import MissingExtra
from kdcore.evaluation.synthesis_grid import draw_grid
from kdcore.evaluation.synthesis_images import nearest
from kdcore.evaluation.synthesis_text import likest

__all__ = ["PICTURE", "measure_made"]

PICTURE = "samples.png"
_LOOKED_AT = 1000
_READ, _SHOWN = 100, 3


def measure_made(recipe: Recipe) -> list[dict[str, Any]]:
    """Figures and notes of every generation as JSON, in order; of images also a picture in the run directory.

    Of images the last generation has `nearest_made` and `nearest_real` as well: medians over held-out real images of
    the distance to the nearest of 1,000 made ones, and to the nearest other real one, in 256 steps a pixel. Of texts it
    has `likest_made` and `likest_real`, medians over 100 held-out real texts of `likest`, and a few `texts` to read.
    """
    folder, found = samples_folder(recipe), []
    for number in range(recipe.synthesis.generations if recipe.synthesis is not None else 0):
        made = read_generation(folder, number)
        if made is not None:
            found.append({"generation": number, "made": made.made, "kept": made.kept, **made.figures})
            found[-1]["notes"] = list(made.notes)
    data = recipe.data
    if found and isinstance(data, SynthesisedImagesData):
        made_alone = without_views(data.model_copy(update={"real_per_class": 0}))
        _look(open_source(made_alone), data, recipe.run_dir, found[-1])
    elif found and found[-1]["kept"] and kind_of(data) == "text":
        _read(recipe, folder, found[-1])
    return found


def _read(recipe: Recipe, folder: Path, figures: dict[str, Any]) -> None:
    """Made texts beside real ones; figures alone where there is no real text at hand."""
    made, source = _made_texts(folder, figures["generation"]), open_source(recipe.data)
    samples = readable(source, source.list("heldout")[:_READ], recipe.data.on_unreadable)
    real = [sample.text for _, sample in samples if isinstance(sample, TextDocument)]
    if len(real) > 1:
        figures["likest_made"] = round(float(np.median(likest(real, made))), 4)
        figures["likest_real"] = round(float(np.median(likest(real))), 4)
    figures["texts"] = {"made": made[:_SHOWN], "real": real[:_SHOWN]}


def _made_texts(folder: Path, generation: int) -> list[str]:
    """The first kept ones of each unit in turn, up to 100."""
    units = [
        pq.read_table(path, columns=["text"]) for path in sorted(folder.glob(f"generation-{generation:03d}-*.parquet"))
    ]
    share = -(-_READ // len(units))
    return [text for unit in units for text in unit.column("text")[:share].to_pylist()][:_READ]


def _look(source: Source, data: SynthesisedImagesData, folder: Path, figures: dict[str, Any]) -> None:
    made, real = (_images(source, data, split) for split in ("train", "heldout"))
    if len(real[0]) > 1:
        figures["nearest_made"] = round(float(np.median(nearest(real[0], made[0]))), 2)
        figures["nearest_real"] = round(float(np.median(nearest(real[0]))), 2)
    try:
        draw_grid(folder / PICTURE, made, real)
    except MissingExtra as error:
        figures["notes"].append(f"no picture of the samples. {error}")


def _images(source: Source, data: SynthesisedImagesData, split: Split) -> tuple[np.ndarray, list[int]]:
    """Up to 1,000 spread over a split: uint8 [N, H, W, C], and classes."""
    refs = source.list(split)
    rows = np.unique(np.linspace(0, len(refs) - 1, min(len(refs), _LOOKED_AT)).astype(int))
    samples = readable(source, (refs[row] for row in rows), data.on_unreadable)
    images = [sample for _, sample in samples if isinstance(sample, ImageSample)]
    _, _, mean, std = image_form(data.real)
    pixels = to_bytes(np.stack([image.pixels for image in images]), mean, std)
    return pixels, [-1 if image.target is None else image.target for image in images]
