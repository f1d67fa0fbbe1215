"""What METHODS.md says can be typed can be: each line is a recipe whose loss has a gradient."""

import re
import shlex
from pathlib import Path

import pytest
import torch

import kdcore
from kdcore.config import Recipe
from kdcore.config.load import load_recipe
from kdcore.models.image import build_image_model
from kdcore.models.text_classifier import TokenClassifier, build_text_classifier
from kdcore.models.tokenizer import load_tokenizer
from tests.unit.test_losses_methods import TYPES

REPO = Path(__file__).resolve().parent.parent.parent
PAGE = (REPO / "METHODS.md").read_text().partition("## Any of them in one command")[2].partition("\n## ")[0]
ON_DIGITS, OF_ENCODERS = PAGE.split("`heatmaps` needs")
SAMPLES = 12


def _lines(part: str) -> dict[str, list[str]]:
    """The overrides of each loss that a part of the section names."""
    (config, beside) = re.search(r"kd distill (\S+) name=NAME training\.losses='\[(.*), TERM\]'", part).groups()  # pyright: ignore
    found = {name: (f"{{type: {name}}}", "") for name in re.findall(r"`(\w+)`", _sentence(part))}
    found |= {name: (term, more) for name, term, more in re.findall(r"^\| `(\w+)` \| `(.*?)` \|(.*)$", part, re.M)}
    return {
        name: [config, f"name={name}", f"training.losses=[{beside}, {term}]", *shlex.split(more.strip(" |`"))]
        for name, (term, more) in found.items()
    }


def _sentence(part: str) -> str:
    return part.partition("`TERM` is `{type: NAME}`: ")[2].partition("\n")[0]


DIGITS, ENCODERS = _lines(ON_DIGITS), _lines(OF_ENCODERS)


def _recipe(line: list[str]) -> Recipe:
    return load_recipe(REPO / line[0], line[1:])


def _step(recipe: Recipe, student: torch.nn.Module, teacher: torch.nn.Module, given: torch.Tensor) -> None:
    assert recipe.training is not None
    losses = kdcore.compose_losses(recipe.training.losses, student, teacher, given, num_samples=SAMPLES)
    loss, values = losses.loss(given, torch.arange(SAMPLES) % 10, indices=torch.arange(SAMPLES))
    loss.backward()
    assert all(torch.isfinite(value).all() for value in values.values())
    assert any(bool(parameter.grad.abs().sum() > 0) for parameter in student.parameters() if parameter.grad is not None)


def test_every_loss_is_on_the_page():
    assert set(DIGITS) | set(ENCODERS) == set(TYPES) - {"import", "heatmaps"}


@pytest.mark.parametrize("name", sorted(DIGITS))
def test_a_line_for_the_digits_trains(name):
    recipe = _recipe(DIGITS[name])
    torch.manual_seed(0)
    networks = [build_image_model(config, 10, 1) for config in (recipe.student, recipe.teacher)]  # pyright: ignore
    _step(recipe, networks[0], networks[1], torch.randn(SAMPLES, 1, 8, 8))


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(str(REPO / "configs" / "data" / "passages-tokenizer"))


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_a_line_for_encoders_trains(name, tokenizer):
    recipe = _recipe(ENCODERS[name])
    torch.manual_seed(0)
    networks = [
        TokenClassifier(build_text_classifier(config, tokenizer, 10), tokenizer)
        for config in (recipe.student, recipe.teacher)
    ]  # pyright: ignore
    ids = torch.randint(5, 2000, (SAMPLES, 9))
    _step(recipe, networks[0], networks[1], torch.stack([ids, torch.ones_like(ids), torch.zeros_like(ids)], dim=1))
