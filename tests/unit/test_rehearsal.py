"""A dry run builds the losses of a recipe, so that what training would refuse at its start is refused by then."""

import pytest

from cluster.estimate.run import estimate
from kdcore.config import Recipe
from kdcore.errors import ConfigError, TeacherError
from kdcore.models.convnet import ConvNet
from tests.support.classified_runs import classified_recipe
from tests.support.training import image_recipe

LAYER = "bert.encoder.layer.{}"


def images(root, loss, **changes) -> Recipe:
    recipe = image_recipe(root, "dry", losses=[{"type": "kl"}, loss]).model_dump(mode="json")
    recipe["teacher"]["fit"]["losses"] = []
    return Recipe.model_validate(recipe | changes)


@pytest.mark.parametrize(
    ("loss", "live", "told"),
    [
        (
            {"at": "blocks.1", "teacher_at": "blocks.7"},
            True,
            r"the teacher has no module 'blocks\.7' of training\.losses\.1",
        ),
        ({"at": "block.1", "teacher_at": "blocks.1"}, False, r"the student has no module.*nearest: blocks\.1"),
        ({"at": "logits", "teacher_at": "blocks.1", "type": "attention_transfer"}, False, "compares feature maps"),
    ],
)
def test_layers_of_images(tmp_path, loss, live, told):
    wrong = {"type": "similarity_preserving", **loss}
    with pytest.raises(ConfigError, match=told):
        estimate(images(tmp_path, wrong), live)
    assert estimate(images(tmp_path, {**wrong, "at": "blocks.1", "teacher_at": "blocks.1"}), live).train_seconds > 0


class Auxiliary(ConvNet):
    """Has a second head in training."""

    def forward(self, pixels):
        found = super().forward(pixels)
        return (found, found) if self.training else found


def test_networks_that_would_fail_at_the_first_step(tmp_path):
    recipe = images(tmp_path, {"type": "cross_entropy"}).model_dump(mode="json")
    student = {**recipe["student"], "source": "import", "name": f"{__name__}:Auxiliary"}
    with pytest.raises(ConfigError, match=r"import '.*:Auxiliary' must return logits"):
        estimate(Recipe.model_validate({**recipe, "student": student}), False)
    teacher = {**recipe["teacher"], "fit": None}
    with pytest.raises(TeacherError, match="has only its initial ones"):
        estimate(Recipe.model_validate({**recipe, "teacher": teacher}), False)


def test_a_store_of_texts_has_their_first_tokens(tmp_path):
    def recipe(tokens: str, at: str = LAYER.format(0)) -> Recipe:
        loss = {"type": "hidden_states", "at": at, "teacher_at": LAYER.format(1), "tokens": tokens}
        codec = {"type": "feature", "layers": [LAYER.format(1)]}
        training = {"steps": 2, "batch_size": 4, "losses": [{"type": "cross_entropy"}, loss]}
        return classified_recipe(tmp_path, labels={"codec": codec}, training=training)

    with pytest.raises(ConfigError, match="set `tokens: first`"):
        estimate(recipe("all"))
    assert estimate(recipe("first")).train_seconds > 0
    with pytest.raises(
        ConfigError, match=r"the student has no module 'bert\.encoder\.layer\.4' of training\.losses\.1"
    ):
        estimate(recipe("first", LAYER.format(4)))
