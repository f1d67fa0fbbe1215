"""Settings of a loss: which divergence takes which parameters and which labels."""

import pytest
from pydantic import ValidationError

from kdcore.config.load import parse_recipe
from kdcore.config.loss import LossConfig
from kdcore.errors import ConfigError


def recipe(loss: dict, codec: dict | None = None):
    labels = {} if codec is None else {"codec": codec}
    return parse_recipe(
        {
            "name": "x",
            "data": {"type": "python_stdlib"},
            "teacher": {"type": "causal_lm", "path": "somebody/model"},
            "labels": labels,
            "student": {"type": "causal_lm", "architecture": {"model_type": "llama"}},
            "training": {"steps": 1, "loss": loss},
        }
    )


def test_nothing_said_is_forward_kl():
    config = LossConfig()
    assert (config.type, config.parameters, config.tail) == ("kl", {}, None)


@pytest.mark.parametrize(
    ("given", "parameters"),
    [
        ({"type": "jsd"}, {"beta": 0.5}),
        ({"type": "jsd", "beta": 0.0}, {"beta": 0.0}),
        ({"type": "skew_kl", "alpha": 0.3}, {"alpha": 0.3}),
        ({"type": "adaptive_kl"}, {"head_mass": 0.5}),
    ],
)
def test_parameters_are_those_of_the_type(given, parameters):
    assert LossConfig(**given).parameters == parameters


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beta": 0.5}, "`beta` is a parameter of type jsd or gold, but type is 'kl'"),
        ({"type": "jsd", "alpha": 0.5}, "`alpha` is a parameter of type skew_kl or skew_reverse_kl"),
        ({"type": "skew_kl", "alpha": 0.0}, "greater than 0"),
        ({"type": "jsd", "beta": 1.5}, "less than or equal to 1"),
    ],
)
def test_parameters_of_another_type_or_out_of_range_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        LossConfig(**given)


@pytest.mark.parametrize(
    ("loss", "codec", "message"),
    [
        ({"type": "jsd"}, None, "labels.codec.type to topk or dense"),
        ({"temperature": 2.0}, {"type": "topk"}, "training.loss.tail: drop"),
        ({"tail": "label"}, {"type": "sampled"}, "training.loss.tail is 'label'"),
        ({"type": "reverse_kl", "tail": "label"}, {"type": "topk"}, "infinite where the teacher has no mass"),
        ({"type": "jds"}, None, "training.loss.type"),
        ({"type": "jsd", "bet": 0.5}, {"type": "dense"}, "nearest valid key: 'training.loss.beta'"),
    ],
)
def test_a_recipe_whose_labels_do_not_fit_its_loss_is_refused_before_they_are_made(loss, codec, message):
    with pytest.raises(ConfigError) as caught:
        recipe(loss, codec)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "codec"),
    [
        ({"temperature": 2.0}, {"type": "dense"}),
        ({"temperature": 2.0, "tail": "drop"}, {"type": "topk"}),
        ({"type": "reverse_kl"}, {"type": "topk"}),
        ({"num_classes": 100, "recompute": True}, None),
    ],
)
def test_text_recipes_that_fit(loss, codec):
    assert recipe(loss, codec).training is not None


@pytest.mark.parametrize(
    ("training", "setting"),
    [
        ({"packing": True}, "training.packing"),
        ({"long_documents": "drop"}, "training.long_documents"),
        ({"loss": {"num_classes": 3}}, "training.loss.num_classes"),
        ({"loss": {"implementation": "triton"}}, "training.loss.implementation"),
        ({"loss": {"recompute": True}}, "training.loss.recompute"),
    ],
)
def test_settings_of_text_are_refused_for_images(training, setting):
    made = {"name": "x", "data": {"type": "digits"}, "student": {"type": "image_classifier", "source": "convnet"}}
    with pytest.raises(ConfigError, match=f"{setting} is of text"):
        parse_recipe({**made, "training": {"steps": 1, **training}})
    parse_recipe({**made, "training": {"steps": 1, "packing": False, "loss": {"recompute": False}}})
