"""A teacher that makes images: each unit is a chain of its own, written as a shard of images with their provenance."""

from typing import Any

import torch
from torch import nn

from cluster.labelling.disk_room import free_bytes
from cluster.synthesis.unit_progress import UnitProgress
from cluster.synthesis.unrelated import UnrelatedImages
from kdcore.config import Recipe
from kdcore.config.data import RealImages, image_form
from kdcore.config.models import ImageClassifierConfig, TeacherImageConfig
from kdcore.config.synthesis.images import ImageSettings, TransferConfig
from kdcore.data.sources import open_source
from kdcore.data.synthesised.shards import IMAGE_SHARD, MadeImage, image_batches
from kdcore.errors import ConfigError
from kdcore.facts import package_versions
from kdcore.identity import digest_file, digest_json, digest_state
from kdcore.models.image import build_image_model
from kdcore.precision import bfloat16_note
from kdcore.store import find_receipt
from kdcore.store.writer import Receipt, write_shard
from kdcore.synthesis.images.make import check_networks, make_images
from kdcore.synthesis.images.pixels import PixelSpace, SynthesisedImages
from kdcore.synthesis.images.transfer import Found
from kdcore.synthesis.units import SynthesisUnit, settings_of_samples
from kdcore.teachers.base import pick_device
from kdcore.teachers.image_classifier import ImageTeacher

__all__ = ["ImageReplica"]


class ImageReplica:
    """The teacher of a recipe, loaded. The images of a unit depend on nothing but the unit, teacher and student."""

    torn = False

    def __init__(self, recipe_json: str, store_path: str) -> None:
        recipe = Recipe.model_validate_json(recipe_json)
        self._recipe, self._store_path = recipe, store_path
        config, teacher = recipe.synthesis, recipe.teacher
        if not isinstance(config, ImageSettings) or not isinstance(teacher, TeacherImageConfig):
            raise ConfigError("images are made by a teacher of type image_classifier: set `teacher` and `synthesis`")
        self._config = config
        source = open_source(recipe.data)
        assert source.num_classes is not None  # recipes with data of another kind are refused
        assert isinstance(recipe.data, RealImages)
        size, channels, mean, std = image_form(recipe.data)
        # What its passes are computed in is said by synthesis.precision: gradients need weights of float32.
        whole = teacher.model_copy(update={"dtype": "float32"})
        self._teacher = ImageTeacher(whole, source.num_classes, channels)
        self._space = PixelSpace((channels, size, size), mean, std)
        # What is missing is said before any unit is begun.
        check_networks(self._teacher.model, self._student(), config, self._space)
        self._found = self._unrelated()

    def identity(self) -> dict[str, Any]:
        """Kind, teacher, method, weights of the student that is to be taught, unrelated images, and versions."""
        config, wanted = self._config, self._student_settings()
        student = self._student() if wanted is not None and wanted.path is not None else None
        unrelated = config.path if isinstance(config, TransferConfig) else None
        return {
            "kind": "image",
            "teacher": self._teacher.identity(),
            "synthesis": digest_json(settings_of_samples(config)),
            "student": None if student is None else digest_state(student.state_dict()),
            **({} if unrelated is None else {"unrelated": digest_file(unrelated)}),
            "versions": package_versions(),
        }

    def outlook(self) -> dict[str, float | None]:
        """The free bytes here."""
        return {"labels": None, "tokens": None, "free": free_bytes(self._store_path)}

    @property
    def note(self) -> str:
        """What a person should know before it begins: that its numerics are slow here."""
        return bfloat16_note(self._recipe, ("synthesis.precision",), pick_device(None))

    def label(self, unit: SynthesisUnit, attempt: str, batch_divisor: int = 1) -> Receipt:
        """Make the images of a unit and write its shard; the receipt is not published yet.

        `batch_divisor` changes nothing: images of smaller batches would be others. A unit that has a valid receipt
        meanwhile is answered with that one. Raises LabelError when a method diverges, OutOfSpace when the disk is full.
        """
        there = find_receipt(self._store_path, unit.id, unit.digest)
        if there is not None:
            return there
        made = self._made(unit)
        batches = image_batches(self._images(unit, made))
        return write_shard(self._store_path, unit.id, attempt, IMAGE_SHARD, batches, unit_digest=unit.digest)

    def rest(self) -> None:
        """Nothing waits."""

    def _made(self, unit: SynthesisUnit) -> SynthesisedImages:
        with torch.random.fork_rng([]):
            torch.manual_seed(unit.seed)
            student = self._student()
        device = next(self._teacher.model.parameters()).device
        return make_images(
            self._teacher.model,
            None if student is None else student.to(device),
            self._config,
            self._space,
            self._teacher.num_classes,
            wanted=unit.samples,
            seed=unit.seed,
            on_step=UnitProgress(unit.id, unit.samples, lambda line: print(line, flush=True)),
            found=self._found,
        )

    def _student(self) -> nn.Module | None:
        wanted = self._student_settings()
        if wanted is None:
            return None
        return build_image_model(wanted, self._teacher.num_classes, self._space.shape[0]).float()

    def _student_settings(self) -> ImageClassifierConfig | None:
        """A student of the recipe as it begins, or the one of the last generation; None where none is asked for."""
        config = self._recipe.student
        if not self._config.needs_student:
            return None
        if not isinstance(config, ImageClassifierConfig):
            raise ConfigError("synthesis.adversarial above 0 needs a student to disagree with: add `student`")
        path = self._config.student
        return config if path is None else config.model_copy(update={"path": path})

    def _unrelated(self) -> Found | None:
        config = self._config
        if not isinstance(config, TransferConfig) or config.path is None:
            return None
        return UnrelatedImages(config.path, config.image_column, self._space.shape)

    def _images(self, unit: SynthesisUnit, made: SynthesisedImages) -> list[MadeImage]:
        pixels = made.pixels.permute(0, 2, 3, 1).contiguous().numpy()
        return [
            MadeImage(
                name=f"generation-{unit.generation:03d}/{unit.id}/{row:06d}",
                pixels=pixels[row],
                target=int(made.targets[row]),
                method=self._config.type,
                generation=unit.generation,
                unit=unit.id,
                seed=unit.seed,
                step=int(made.steps[row]),
                losses=made.losses[row],
            )
            for row in range(len(made))
        ]
