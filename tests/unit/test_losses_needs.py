"""Losses that the samples of a recipe do not suit are refused before anything is computed."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcore.config import Recipe
from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs, Shapes
from kdcore.losses.registry import make_method
from kdcore.training.batches import ImageBatch
from kdcore.training.composition import compose
from kdcore.training.needs import check_losses
from kdcore.training.teacher_side import LiveTeacher
from tests.support.methods import TERMS

ONE_CLASS = ("conditional", "dkd", "nkd", "rld", "virtual_teacher", "wsld", "cs_kd", "gradient_attention")
OF_ONE_LAYER = ({"type": "sskd", "at": "layer3"}, {"type": "tofd", "at": "layer3"})
MODEL = {"type": "image_classifier", "source": "convnet"}


def images(losses: list[dict[str, Any]], mix: bool = True, fit: list[dict[str, Any]] | None = None) -> Recipe:
    views = {"per_image": 2, **({"mix": {"mixup": 0.2}} if mix else {})}
    teacher = {**MODEL, **({"fit": {"steps": 1, "losses": fit}} if fit else {"path": "t.safetensors"})}
    values = {"name": "needs", "data": {"type": "digits", "views": views}, "teacher": teacher, "student": MODEL}
    return Recipe.model_validate({**values, "training": {"steps": 1, "losses": losses}})


@pytest.mark.parametrize("loss", [*({"type": name} for name in ONE_CLASS), *OF_ONE_LAYER])
def test_losses_of_one_class_are_refused_where_pictures_are_mixed(loss):
    with pytest.raises(ConfigError, match=rf"'{loss['type']}' needs one class.*leave data\.views\.mix out"):
        check_losses(images([{"type": "kl"}, loss]))
    check_losses(images([{"type": "kl"}, loss], mix=False))


@pytest.mark.parametrize("name", ["cross_entropy", "kl", "dist", "jacobian"])
def test_other_losses_learn_from_mixed_pictures(name):
    check_losses(images([{"type": name}]))


def test_losses_of_a_teacher_in_training_are_refused_alike():
    with pytest.raises(ConfigError, match="'cs_kd' needs one class"):
        check_losses(images([{"type": "kl"}], fit=[{"type": "cross_entropy"}, {"type": "cs_kd"}]))


MEMORY = {"type": "import", "name": "tests.support.own_losses:Memory", "at": "1"}


@pytest.mark.parametrize("loss", [{"type": "crd", "at": "1"}, MEMORY])
def test_losses_that_remember_each_picture_are_refused_where_pictures_are_mixed(loss):
    with pytest.raises(ConfigError, match=r"'(crd|Memory)' remembers each picture.*leave data\.views\.mix out"):
        check_losses(images([{"type": "kl"}, loss]))
    check_losses(images([{"type": "kl"}, loss], mix=False))
    check_losses(images([{"type": "kl"}, {"type": "crd", "at": "1", "contrast": "batch"}]))


def texts(codec: dict[str, Any], losses: list[dict[str, Any]], live: bool | str = "auto") -> Recipe:
    model = {"type": "text_classifier", "path": "encoder"}
    data = {"type": "classified_text", "path": "texts.jsonl", "num_classes": 2}
    values = {"name": "needs", "data": data, "teacher": model, "student": model, "labels": {"codec": codec}}
    return Recipe.model_validate({**values, "training": {"steps": 1, "losses": losses, "live_teacher": live}})


HIDDEN = {"type": "hidden_states", "at": "bert.encoder.layer.1", "tokens": "first"}
LOGITS = {"type": "rkd", "at": "logits"}


@pytest.mark.parametrize(
    ("losses", "remedy"),
    [
        ([{"type": "dist"}], "{type: dense}, or"),
        ([LOGITS], "{type: feature, layers: [logits]}, or"),
        ([{"type": "kl"}, HIDDEN], "{type: feature, layers: [bert.encoder.layer.1, logits]} (of a text's tokens"),
        ([HIDDEN, {"type": "jacobian"}], "Set training.live_teacher: auto"),
    ],
)
def test_what_is_missing_is_answered_with_what_helps(losses, remedy):
    recipe = texts({"type": "topk", "k": 1}, losses, live=False)
    if losses[-1]["type"] == "jacobian":  # of images
        recipe = images(losses, mix=False).model_copy(update={"training": recipe.training})
    with pytest.raises(ConfigError) as error:
        check_losses(recipe)
    assert remedy in str(error.value)
    if remedy.startswith("{type: feature"):
        layers = remedy[remedy.index("[") + 1 : remedy.index("]")].split(", ")
        assert check_losses(texts({"type": "feature", "layers": layers}, losses, live=False)) is None


def test_why_the_teacher_runs_beside_the_student():
    assert check_losses(texts({"type": "dense"}, [{"type": "kl"}])) is None
    assert check_losses(texts({"type": "dense"}, [{"type": "kl"}], live=True)) == "training.live_teacher is true"
    why = check_losses(texts({"type": "topk", "k": 1}, [HIDDEN, {"type": "dist"}]))
    assert why == "hidden_states needs features of bert.encoder.layer.1; dist needs the logits of all classes"
    assert "jacobian needs passes of the teacher" in (check_losses(images([{"type": "jacobian"}])) or "")


def test_a_loss_of_a_teacher_needs_one():
    alone = images([{"type": "kl"}], mix=False).model_copy(update={"teacher": None})
    with pytest.raises(ConfigError, match=r"training\.losses: the loss 'kl' needs a teacher.*add `teacher`"):
        check_losses(alone)
    with pytest.raises(ConfigError, match=r"teacher\.fit\.losses: the loss 'rkd' needs a teacher.*leave it out"):
        check_losses(images([{"type": "kl"}], mix=False, fit=[{"type": "cross_entropy"}, {"type": "rkd", "at": "1"}]))


@pytest.mark.parametrize(
    "loss", [{"type": "sskd", "at": "bert.pooler"}, {"type": "jacobian"}, {"type": "gradient_attention"}]
)
def test_losses_of_pixels_are_refused_for_texts(loss):
    model = {"type": "text_classifier", "path": "encoder"}
    data = {"type": "classified_text", "path": "texts.jsonl", "num_classes": 2}
    values = {"name": "needs", "data": data, "teacher": model, "student": model}
    recipe = Recipe.model_validate({**values, "training": {"steps": 1, "losses": [loss]}})
    with pytest.raises(ConfigError, match=rf"'{loss['type']}' looks at the pixels.*classified_text"):
        check_losses(recipe)


def network(dtype: torch.dtype, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).to(dtype)


def by_pixels(name: str, ours: torch.dtype, theirs: torch.dtype) -> tuple[float, Tensor]:
    """The loss of networks in these types, and its gradient by the student's first layer."""
    student, teacher = network(ours, 0), LiveTeacher(network(theirs, 1), ())
    pixels = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    term = TERMS.validate_python({"type": name})
    composition = compose(student, [term], teacher, pixels[:1].to(ours), 3, 10)
    loss, _ = composition.loss(ImageBatch(pixels, torch.tensor([0, 1, 2, 0]), None))
    loss.backward()
    gradient = next(student.parameters()).grad
    assert gradient is not None
    assert gradient.dtype == ours
    return float(loss.detach()), gradient.double()


@pytest.mark.parametrize("name", ["jacobian", "gradient_attention"])
@pytest.mark.parametrize(("ours", "theirs"), [(torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)])
def test_gradients_by_pixels_of_networks_in_two_types(name, ours, theirs):
    loss, gradient = by_pixels(name, ours, theirs)
    exact, wanted = by_pixels(name, torch.float64, torch.float64)
    assert loss == pytest.approx(exact, rel=0.05)
    assert float((gradient - wanted).norm()) < 0.1 * float(wanted.norm())


@pytest.mark.parametrize("name", ["pkd", "hidden_states", "hidden_cosine", "mobilebert", "lrc_bert", "alp"])
def test_all_tokens_beside_the_first_alone_are_refused(name):
    def made(tokens: str, ours: tuple[int, ...], theirs: tuple[int, ...]) -> Any:
        term = TERMS.validate_python({"type": name, "at": "a", "tokens": tokens})
        return make_method(term, Shapes({"a": ours}, {"a": theirs}, 3, 10))

    for ours, theirs in (((6, 8), (8,)), ((8,), (6, 8)), ((6, 8), (1, 8))):
        with pytest.raises(ConfigError, match="tokens: first"):
            made("all", ours, theirs)
    made("all", (8,), (8,))
    states, first = torch.randn(4, 6, 8, requires_grad=True), torch.randn(4, 8)
    given = LossInputs(torch.zeros(4, 3), None, torch.zeros(4), student={"a": states}, teacher={"a": first})
    (slope,) = torch.autograd.grad(made("first", (6, 8), (8,))(given), states)
    assert float(slope[:, 0].abs().sum()) > 0
    assert float(slope[:, 1:].abs().sum()) == 0


def test_directions_of_logits_are_not_those_of_log_probabilities():
    """A shift of the logits is nothing to their softmax, and turns them."""
    skd, shifted, centred = ([{"type": "skd", **more}] for more in ({}, {}, {"standardise": True}))
    torch.manual_seed(0)
    logits = torch.randn(6, 5)
    found = [
        float(
            make_method(TERMS.validate_python(losses[0]), Shapes({}, {}, 5, 6))(
                LossInputs(logits, other, logits.argmax(1))
            )
        )
        for losses, other in ((skd, logits), (shifted, logits.log_softmax(1)), (centred, logits.log_softmax(1)))
    ]
    assert found[0] == 0
    assert found[1] > 1
    assert found[2] < 1e-2
    assert "skd needs logits as the network gives them" in (check_losses(images(skd, mix=False)) or "")
    assert check_losses(images(centred, mix=False)) is None
    stored = images(skd, mix=False).model_dump(mode="json")
    stored["training"]["live_teacher"] = False
    with pytest.raises(ConfigError, match=r"Set labels\.codec: \{type: feature, layers: \[logits\]\}"):
        check_losses(Recipe.model_validate(stored))
    stored["labels"] = {"codec": {"type": "feature", "layers": ["logits"]}}
    assert check_losses(Recipe.model_validate(stored)) is None
