"""Published CIFAR ResNets on real images: our network, our reading of Parquet, and their weights."""

from pathlib import Path

import pytest

from kdcore.config.data import ImageParquetData
from kdcore.config.models import ImageClassifierConfig
from kdcore.data.document import ImageSample
from kdcore.data.sources import open_source
from kdcore.evaluation.classifier import evaluate_classifier, image_batches
from kdcore.models.image import build_image_model

pytestmark = pytest.mark.shared
IMAGES = 1000  # the sample that data.max_samples draws; on all 10,000 images they have 89.5% and 81.0%


@pytest.fixture(scope="module")
def images(shared: Path) -> list[ImageSample]:
    data = ImageParquetData(path=str(shared / "cifar10" / "test.parquet"), max_samples=IMAGES, heldout_fraction=0.0)
    source = open_source(data)
    found = [source.read(ref) for ref in source.list("train")]
    return [image for image in found if isinstance(image, ImageSample)]


@pytest.mark.parametrize(("weights", "depth", "accuracy"), [("resnet56-finetuned", 56, 0.899), ("resnet20", 20, 0.821)])
def test_published_weights_load_and_classify(shared: Path, images: list[ImageSample], weights, depth, accuracy):
    path = shared / "cifar10-teachers" / f"{weights}.safetensors"
    config = ImageClassifierConfig(source="cifar_resnet", kwargs={"depth": depth}, path=str(path))
    quality = evaluate_classifier(build_image_model(config, 10, 3).eval(), image_batches(images, 250))
    assert quality["samples"] == IMAGES
    assert quality["accuracy"] == pytest.approx(accuracy, abs=0.0015)
