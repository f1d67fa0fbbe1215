"""What a dry run says of a recipe's cost."""

import pytest

from cluster.estimate.run import estimate
from kdcore.config import Recipe
from tests.support.classified_runs import classified_recipe
from tests.support.training import distilled_images, write_image_teacher

TRAINING = {"steps": 3, "batch_size": 4, "losses": [{"type": "kl", "temperature": 1.0}]}


def _recipe(kind, root):
    if kind == "classified":
        return classified_recipe(root, training=TRAINING, cluster={"replicas": 1, "workers": 1})
    write_image_teacher(root)
    recipe = distilled_images(root, "images", **TRAINING).model_dump(mode="json")
    return Recipe.model_validate({**recipe, "cluster": {"replicas": 1, "workers": 1}})


@pytest.mark.parametrize(("kind", "read"), [("classified", 8), ("images", 32)])
@pytest.mark.parametrize("live", [False, True])
def test_a_live_teacher_costs_time_of_training_and_no_store(tmp_path, monkeypatch, kind, read, live):
    """A sample takes each network a second, forward or both ways: a student in two arms, a live teacher in one."""
    monkeypatch.setattr(f"cluster.estimate.{kind}.seconds_of", lambda work: (work(), float(read))[1])
    found = estimate(_recipe(kind, tmp_path), live)
    assert found.train_seconds == pytest.approx(3 * 4 * (3 if live else 2))
    assert found.labels == (0 if live else found.samples)
    assert found.label_seconds == pytest.approx(found.labels)
    assert (found.store_bytes > 0) == (not live)
