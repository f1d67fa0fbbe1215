"""A teacher's answers to images as rows of a store: a label of each image, or of each of its views."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cluster.labelling.replica.answers import OnRead, Samples
from cluster.labelling.replica.class_answers import ClassAnswers
from kdcore.config.models import TeacherImageConfig
from kdcore.data.document import ImageSample, Sample, SampleRef
from kdcore.data.keys import sample_key
from kdcore.data.sources import Source
from kdcore.data.viewed import render
from kdcore.data.views import Views, pack_views, partner_rows, views_of
from kdcore.errors import DataError, UnreadableDocument
from kdcore.labels import Codec
from kdcore.labels.feature import ShapedLayers
from kdcore.labels.views.spec import ViewSpec
from kdcore.store.schema import VIEWS, ShardRow
from kdcore.teachers.image_classifier import ImageTeacher

__all__ = ["ImageAnswers", "Pictures", "ViewedImages"]


class Pictures(Protocol):
    """What a teacher sees of n images: `per_image` pictures of each, image after image."""

    @property
    def per_image(self) -> int:
        """How many of each image."""
        ...

    def pixels(self, first: int, stop: int) -> Tensor:
        """Pictures first .. stop - 1, float32 [stop - first, C, H, W]."""
        ...

    def columns(self, image: int) -> dict[str, np.ndarray]:
        """What a row keeps of how its pictures were made."""
        ...


@dataclass(frozen=True)
class WholeImages:
    """Each image as it is, once: float32 [C, H, W]."""

    images: Sequence[np.ndarray]
    per_image = 1

    def pixels(self, first: int, stop: int) -> Tensor:
        """See Pictures."""
        return torch.from_numpy(np.stack(self.images[first:stop]))

    def columns(self, image: int) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class ViewedImages:
    """Views of decoded images, uint8 [H, W, C]: `spec.per_image` of each, with the partner's image or None."""

    spec: ViewSpec
    images: Sequence[np.ndarray]
    views: Views
    partners: Sequence[np.ndarray | None]

    @classmethod
    def drawn(cls, spec: ViewSpec, keys: Sequence[bytes], images: Sequence[np.ndarray]) -> "ViewedImages":
        """The views of the images of one work unit."""
        views = views_of(spec.policy, keys, keys)
        rows = partner_rows(views, keys).tolist()
        return cls(spec, images, views, [None if row < 0 else images[row] for row in rows])

    @property
    def per_image(self) -> int:
        """See Pictures."""
        return self.spec.per_image

    def pixels(self, first: int, stop: int) -> Tensor:
        """See Pictures."""
        images = [self.images[number // self.per_image] for number in range(first, stop)]
        return render(self.spec, images, self.views[first:stop], self.partners[first:stop])

    def columns(self, image: int) -> dict[str, np.ndarray]:
        """The packed parameters."""
        return {VIEWS: self._packed[image]}

    @cached_property
    def _packed(self) -> list[np.ndarray]:
        flat, lengths = pack_views(self.spec.policy, self.views)
        return np.split(flat, np.cumsum(lengths)[:-1])


@dataclass(frozen=True)
class ImageAnswers(ClassAnswers[ImageTeacher, TeacherImageConfig]):
    """Labels of images, or of `views` of them. Each image is read once, whatever the number of its views."""

    views: ViewSpec | None = None

    word = "image"

    def reading(self) -> dict[str, Any]:
        """What of the identity says which pictures are made of the images; empty for the images themselves."""
        return {} if self.views is None else {"views": self.views.to_json()}

    def layers(self, source: Source, refs: Sequence[SampleRef]) -> ShapedLayers:
        """The shapes of the features, from a pass over the first of `refs` that can be read; else DataError."""
        if not self.feature_paths:
            return ()
        pixels = self.example(source, refs)
        if pixels is None:
            raise DataError(f"the layers' widths are measured on an image, but none of {len(refs)} could be read")
        return self.teacher.feature_layers(self.feature_paths, pixels)

    def example(self, source: Source, refs: Sequence[SampleRef]) -> Tensor | None:
        """The first picture of the first of `refs` that can be read, float32 [1, C, H, W]; None when none can."""
        for ref in refs:
            with suppress(UnreadableDocument):
                return self._picture(source.read(ref)).pixels(0, 1)
        return None

    def amounts(self, sample: Sample) -> tuple[int, int]:
        """A label of each picture, no tokens."""
        return 1 if self.views is None else self.views.per_image, 0

    def rows(
        self, unit: str, samples: Samples, codec: Codec, batch_divisor: int = 1, on_read: OnRead = lambda amount: None
    ) -> Iterator[ShardRow]:
        """Labelled rows, in the order of the samples. LabelError names unit and image for outputs not finite.

        `on_read` hears of the pictures. The samples are those of one work unit, in which views find their partners.
        """
        pictures = self._pictures([key for (_, key, _), _ in samples], [sample for _, sample in samples])
        on_read(len(samples) * pictures.per_image)
        yield from self.rows_of(unit, samples, pictures, codec, batch_divisor)

    def rows_of(
        self, unit: str, samples: Samples, pictures: Pictures, codec: Codec, batch_divisor: int = 1
    ) -> Iterator[ShardRow]:
        """As `rows`, of given pictures."""
        limit, per_image = max(1, self.config.batch_size // batch_divisor), pictures.per_image
        step = max(1, limit // per_image)
        for start in range(0, len(samples), step):
            part = samples[start : start + step]
            outputs = self._answers(pictures, start * per_image, (start + len(part)) * per_image, limit)
            columns = [pictures.columns(number) for number in range(start, start + len(part))]
            yield from self._labelled(unit, part, outputs, codec, columns)

    def _alone(self, sample: Sample) -> Tensor:
        pictures = self._picture(sample)
        return self._answers(pictures, 0, pictures.per_image, self.config.batch_size)

    def _picture(self, sample: Sample) -> Pictures:
        return self._pictures([sample_key(sample)] if self.views is not None else [], [sample])

    def _pictures(self, keys: Sequence[bytes], samples: Sequence[Sample]) -> Pictures:
        images = [sample.pixels for sample in samples if isinstance(sample, ImageSample)]
        return WholeImages(images) if self.views is None else ViewedImages.drawn(self.views, keys, images)

    def _answers(self, pictures: Pictures, first: int, stop: int, limit: int) -> Tensor:
        """Logits or features of some pictures, at most `limit` in a forward pass."""
        return torch.cat(
            [self._outputs(pictures.pixels(at, min(at + limit, stop))) for at in range(first, stop, limit)]
        )
