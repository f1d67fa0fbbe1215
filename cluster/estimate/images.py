"""What a run on images would cost."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cluster.estimate.parts import arms_of, cpu_share, label_bytes, seconds_of, sketch_of, trained_samples
from cluster.estimate.run import Estimate
from cluster.labelling.disk_room import store_bytes
from kdcore.config.models import ImageClassifierConfig, TeacherImageConfig
from kdcore.config.recipe import Recipe
from kdcore.data.document import ImageSample
from kdcore.data.sources import open_source, readable
from kdcore.data.viewed import view_spec, without_views
from kdcore.errors import DataError
from kdcore.labels.views import bytes_per_view
from kdcore.models.image import build_image_model
from kdcore.teachers.image_classifier import ImageTeacher
from kdcore.training.logits import logits_of
from kdcore.training.rehearsal import rehearse_losses

__all__ = ["estimate_images"]

_BATCH = 32


def estimate_images(recipe: Recipe, live: bool) -> Estimate:
    """See `estimate`."""
    source, corpus, spec = open_source(without_views(recipe.data)), sketch_of(recipe), view_spec(recipe.data)
    sample = next((sample for _, sample in readable(source, corpus.some, recipe.data.on_unreadable)), None)
    if not isinstance(sample, ImageSample):
        raise DataError(f"at least one image must be readable, none of {len(corpus.some)} is: set data.path")
    count, classes = corpus.num_samples, source.num_classes or 0
    moment = _Moment(torch.from_numpy(sample.pixels)[None].repeat(_BATCH, 1, 1, 1), classes)
    _rehearse(recipe, moment, None if spec is None else spec.size, live)
    train_seconds = _train_seconds(recipe, moment, count, live) / cpu_share(recipe.cluster.workers)
    if live:
        return Estimate(count, 0, 0, 0.0, train_seconds)
    labels = count * (1 if spec is None else spec.per_image)
    label_seconds = 0.0
    if isinstance(recipe.teacher, TeacherImageConfig):
        label_seconds = moment.forward(recipe.teacher) * labels / cpu_share(recipe.cluster.replicas.max)
    per_label = label_bytes(recipe, corpus, classes) + (0 if spec is None else bytes_per_view(spec.policy))
    return Estimate(count, labels, int(store_bytes(per_label, count, labels)), label_seconds, train_seconds)


@dataclass(frozen=True)
class _Moment:
    """Seconds an image, of `pixels` [B, C, H, W] and networks for `classes`."""

    pixels: Tensor
    classes: int

    def network(self, config: ImageClassifierConfig) -> nn.Module:
        if isinstance(config, TeacherImageConfig) and config.fit is None:  # refused where it knows nothing
            return ImageTeacher(config, self.classes, self.pixels.shape[1], "cpu").model.float()
        return build_image_model(config, self.classes, self.pixels.shape[1])

    def forward(self, config: ImageClassifierConfig) -> float:
        model = self.network(config)
        return seconds_of(lambda: model(self.pixels)) / len(self.pixels)

    def trained(self, config: ImageClassifierConfig) -> float:
        model = self.network(config)

        def once() -> None:
            logits_of(model, self.pixels, f"{config.source} '{config.name}'").logsumexp(1).sum().backward()

        return seconds_of(once) / len(self.pixels)


def _rehearse(recipe: Recipe, moment: _Moment, view_size: int | None, live: bool) -> None:
    """ConfigError for losses that do not suit the networks."""
    if not isinstance(recipe.student, ImageClassifierConfig):
        return
    teacher = moment.network(recipe.teacher) if isinstance(recipe.teacher, TeacherImageConfig) else None
    example = moment.pixels[:1]
    if view_size is not None:
        example = example.new_zeros(*example.shape[:2], view_size, view_size)
    rehearse_losses(recipe, moment.network(recipe.student), teacher, example, moment.classes, live)


def _train_seconds(recipe: Recipe, moment: _Moment, count: int, live: bool) -> float:
    """Of a teacher that is trained on the spot, and of all arms, as if one after the other."""
    seconds, teacher, training = 0.0, recipe.teacher, recipe.training
    if isinstance(teacher, TeacherImageConfig) and teacher.fit is not None:
        seconds += moment.trained(teacher) * trained_samples(teacher.fit, count)
    if training is None or not isinstance(recipe.student, ImageClassifierConfig):
        return seconds
    images = trained_samples(training, count)
    seconds += moment.trained(recipe.student) * images * arms_of(training)
    if live and isinstance(teacher, TeacherImageConfig):  # the baseline goes without it
        seconds += moment.forward(teacher) * images * len(training.seeds)
    return seconds
