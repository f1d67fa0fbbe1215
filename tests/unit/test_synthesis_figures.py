"""A collapsed generator is said to be one; what is well is not complained of."""

from pathlib import Path

import numpy as np
import pytest

from kdcore.evaluation.synthesis_grid import draw_grid
from kdcore.evaluation.synthesis_images import collapse_notes, image_figures, nearest


@pytest.fixture
def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def noise(draw: np.random.Generator, count: int) -> np.ndarray:
    return draw.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)


def test_noise_of_all_classes_has_not_collapsed(draw: np.random.Generator) -> None:
    figures = image_figures(noise(draw, 40), [0, 1, 2, 3] * 10, 4)
    assert (figures["balance"], figures["flat"], figures["repeated"]) == (1.0, 0.0, 0.0)
    of_many = image_figures(noise(draw, 40), [0, 1, 2, 3] * 30, 4)  # a few of them are looked at
    assert (of_many["images"], collapse_notes(of_many)) == (120, ())
    assert figures["nearest"][0] <= figures["nearest"][1] <= figures["apart"]
    assert collapse_notes(figures) == ()


def test_one_class_constant_images_and_repeated_ones_are_said(draw: np.random.Generator) -> None:
    images = noise(draw, 40)
    (one, rest) = collapse_notes(image_figures(images, [2] * 38 + [1, 0], 4))
    assert "38 of 40 images are of class 2" in one
    assert "class 3" in rest
    flat = np.full_like(images, 7)
    coloured = np.broadcast_to(draw.integers(0, 256, (40, 1, 1, 3), dtype=np.uint8), (40, 4, 4, 3))
    for plain in (flat, coloured):
        (constant,) = collapse_notes(image_figures(plain, [0, 1, 2, 3] * 10, 4))
        assert "100% of the images are constant" in constant
    repeated = np.concatenate([images[:20], images[:20]])
    (twice,) = collapse_notes(image_figures(repeated, [0, 1, 2, 3] * 10, 4))
    assert "100% of the images are repeated" in twice
    alike = (images[:1] // 2 + draw.integers(0, 4, images.shape)).astype(np.uint8)
    (nearly,) = collapse_notes(image_figures(alike, [0, 1, 2, 3] * 10, 4))
    assert "nearly one" in nearly


def test_nearest_is_a_root_mean_square_over_pixels() -> None:
    images = np.stack([np.full((2, 2, 1), value, np.uint8) for value in (0, 10, 40)])
    assert nearest(images).tolist() == [10, 10, 30]
    assert nearest(images, images[:1]).tolist() == [0, 10, 40]
    alone = image_figures(images[:1], [0], 2)
    assert "nearest" not in alone
    assert collapse_notes(alone)[0].startswith("collapsed: 1 of 1")


def test_a_grid_has_a_row_for_each_class(draw: np.random.Generator, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from PIL import Image

    made, real = (noise(draw, 6), [0, 0, 1, 1, 2, 2]), (noise(draw, 2), [0, 1])
    draw_grid(tmp_path / "grid.png", made, real)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width > picture.height > 100
