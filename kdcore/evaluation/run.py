"""Measure everything a run produced: its teacher, every exported student, its label store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdcore.config import Recipe
from kdcore.config.data import RowData
from kdcore.config.models import (
    CausalLMConfig,
    TeacherEndpointConfig,
    TeacherImageConfig,
    TeacherLMConfig,
)
from kdcore.data.document import ClassifiedText, ImageSample, Sample, SampleRef, TextDocument
from kdcore.data.encoding import EncodedText, TextEncoder
from kdcore.data.sources import Source, open_source, readable
from kdcore.data.tokenizer import load_tokenizer
from kdcore.data.viewed import without_views
from kdcore.errors import ConfigError
from kdcore.evaluation.classified_text import text_batches, text_classifiers
from kdcore.evaluation.classifier import evaluate_classifier, image_batches
from kdcore.evaluation.heldout import HeldOut
from kdcore.evaluation.language import evaluate_lms, heldout_texts, in_other_tokens
from kdcore.evaluation.latency import latency
from kdcore.evaluation.synthesis import measure_made
from kdcore.identity import digest_tokenizer
from kdcore.store.mix.mix import LabelMix
from kdcore.students.build import tokenizer_path
from kdcore.students.export import load_student
from kdcore.training.arms import with_fitted_teacher

__all__ = ["evaluate_run", "exported_students"]


def evaluate_run(recipe: Recipe) -> dict[str, Any]:
    """Measurements of the teacher and of every arm's exported student on the held-out split.

    Returns {"kind", "models": {arm: {"quality", "parameters", "bytes", "latency"}}, "store": sizes or None}, all JSON;
    of text with a mask also "mask", the tokens that the losses are of; with samples that were made "synthesis".
    Raises ConfigError when the run has exported nothing yet.
    """
    students = exported_students(recipe.run_dir)
    if not students:
        raise ConfigError(f"'{recipe.run_dir}' has no exported student to evaluate; run `kd train` first")
    source = open_source(without_views(recipe.data))
    measure = {"text": _measure_text, "image": _measure_images, "classified_text": _measure_classified}[source.kind]
    found = {"kind": source.kind, "models": measure(recipe, source, students), "store": _store_sizes(recipe)}
    if recipe.synthesis is not None:
        found["synthesis"] = measure_made(recipe)
    mask = recipe.data.labelled if isinstance(recipe.data, RowData) else "all"
    return found if mask == "all" else {**found, "mask": mask}


def exported_students(run_dir: Path) -> dict[str, Path]:
    """Directory of the exported student of each finished arm (it has its result.json), in order of their names."""
    return {path.parent.name: path.parent / "student" for path in sorted(run_dir.glob("arms/*/result.json"))}


def _heldout(recipe: Recipe, source: Source) -> Iterator[Sample]:
    return (sample for _, sample in readable(source, _heldout_refs(source), recipe.data.on_unreadable))


def _heldout_refs(source: Source) -> Iterator[SampleRef]:
    """In the order of the corpus; listed as far as they are asked for, unless the limit has to see them all."""
    if source.max_samples is not None:
        yield from source.list("heldout")
        return
    ref = None
    for ref in (ref for extent in source.extents("heldout") for ref in source.refs(extent, "heldout")):
        yield ref
    if ref is None:
        raise source.no_samples("heldout")


def _measure_text(recipe: Recipe, source: Source, students: dict[str, Path]) -> dict[str, Any]:
    from kdcore.teachers.causal_lm import load_causal_lm

    teacher, training = recipe.teacher, recipe.training
    models: dict[str, Any] = {}
    # A split teacher may be too large for this one process.
    if isinstance(teacher, TeacherLMConfig) and teacher.path is not None and teacher.tensor_parallel == 1:
        models["teacher"] = load_causal_lm(teacher.path, teacher.dtype, teacher.revision, teacher.trust_remote_code)
    models.update({arm: _on_device(load_student(directory)) for arm, directory in students.items()})
    texts = _texts_by_model(recipe, source, models)
    context = training.sequence_length if training else 256
    measured: dict[str, Any] = {}
    for tokenizer, docs, names in texts:
        group = {name: models[name] for name in names}
        quality = evaluate_lms(
            group,
            tokenizer,
            docs,
            "teacher" if "teacher" in group else None,
            batch=recipe.evaluation.batch_size,
            bins=recipe.evaluation.calibration_bins,
            context=context,
        )
        ids = torch.from_numpy(np.resize(docs[0].tokens, (1, context)))
        for arm, model in group.items():
            probe = ids.to(model.device)
            times = latency(lambda model=model, probe=probe: model(input_ids=probe, use_cache=False))
            measured[arm] = {"quality": quality[arm], **_size(model), "latency": times}
    return measured


def _texts_by_model(
    recipe: Recipe, source: Source, models: Iterable[str]
) -> list[tuple[Any, list[EncodedText], list[str]]]:
    """A tokenizer, held-out texts in its tokens, and the models that read them, one by one.

    The teacher's, and the students' own if that is another, with the same bytes of the same documents.
    """
    names, tokenizer = list(models), load_tokenizer(*_tokenizer_of(recipe))
    documents = (sample for sample in _heldout(recipe, source) if isinstance(sample, TextDocument))
    found = heldout_texts(_encoder(tokenizer, recipe), documents, recipe.evaluation.max_tokens)
    docs = [text for _, text in found]
    other = _students_tokenizer(recipe)
    if other is None or digest_tokenizer(other) == digest_tokenizer(tokenizer):
        return [(tokenizer, docs, names)]
    students = [name for name in names if name != "teacher"]
    groups = [(other, in_other_tokens(_encoder(other, recipe), found), students)]
    return [(tokenizer, docs, ["teacher"]), *groups] if "teacher" in names else groups


def _encoder(tokenizer: Any, recipe: Recipe) -> TextEncoder:
    return TextEncoder(tokenizer, recipe.data, with_bytes=getattr(tokenizer, "backend_tokenizer", None) is not None)


def _students_tokenizer(recipe: Recipe) -> Any:
    """The students' own tokenizer, where their labels are for any; None else."""
    teacher, student = recipe.teacher, recipe.student
    if not recipe.any_tokenizer or not isinstance(student, CausalLMConfig):
        return None
    if not isinstance(teacher, CausalLMConfig | TeacherEndpointConfig):
        return None
    return load_tokenizer(*tokenizer_path(student, teacher))


def _tokenizer_of(recipe: Recipe) -> tuple[str, str | None]:
    """Path and revision of the run's one tokenizer: the teacher's, else the student's."""
    for model in (recipe.teacher, recipe.student):
        if isinstance(model, CausalLMConfig | TeacherEndpointConfig) and model.tokenizer_source is not None:
            return model.tokenizer_source
    raise ConfigError("evaluation needs a tokenizer; set `tokenizer` of the teacher or the student")


def _measure_images(recipe: Recipe, source: Source, students: dict[str, Path]) -> dict[str, Any]:
    settings = recipe.evaluation
    images = HeldOut(recipe, source)
    first = images.first
    assert isinstance(first, ImageSample)
    models = {arm: _on_device(load_student(directory)) for arm, directory in students.items()}
    teacher = _image_teacher(recipe, source)
    measured = {}
    for arm, model in (({"teacher": teacher} if teacher else {}) | models).items():
        beside = teacher if arm != "teacher" else None
        device = str(next(model.parameters()).device)
        pixels = torch.from_numpy(first.pixels[None]).to(device)
        times = latency(lambda model=model, pixels=pixels: model(pixels))
        batches = image_batches(images, settings.batch_size, device)
        quality = evaluate_classifier(model, batches, beside, bins=settings.calibration_bins)
        measured[arm] = {"quality": quality, **_size(model), "latency": times}
    return measured


def _image_teacher(recipe: Recipe, source: Source) -> nn.Module | None:
    """The teacher trained by this run (`fit`), or the one of the recipe."""
    config = recipe.teacher
    if not isinstance(config, TeacherImageConfig):
        return None
    if config.fit is not None:
        return _on_device(load_student(recipe.run_dir / "teacher"))
    from kdcore.models.image import build_image_model

    return _on_device(build_image_model(config, source.num_classes or 0, source.num_channels or 0))


def _measure_classified(recipe: Recipe, source: Source, students: dict[str, Path]) -> dict[str, Any]:
    settings = recipe.evaluation
    texts = [text for text in HeldOut(recipe, source) if isinstance(text, ClassifiedText)]
    batches = text_batches(texts, settings.batch_size)
    loaded = {arm: _on_device(load_student(directory)) for arm, directory in students.items()}
    models = text_classifiers(with_fitted_teacher(recipe), source.num_classes or 0, loaded)
    measured = {}
    for arm, (model, logits) in models.items():
        beside = models["teacher"][1] if "teacher" in models and arm != "teacher" else None
        quality = evaluate_classifier(logits, batches, beside, bins=settings.calibration_bins)
        times = latency(partial(logits, batches[0][0][:1]))
        measured[arm] = {"quality": quality, **_size(model), "latency": times}
    return measured


def _on_device(model: Any) -> Any:
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _size(model: nn.Module) -> dict[str, int]:
    parameters = list(model.parameters())
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return {"parameters": sum(parameter.numel() for parameter in parameters), "bytes": size}


def _store_sizes(recipe: Recipe) -> dict[str, Any] | None:
    """Rows, labels, codec and bytes per label by column of the run's store, or of its mix; None for a run without."""
    from kdcore.store import is_finished, open_store

    if recipe.labels.mix is not None:
        return _mix_sizes(recipe)
    if recipe.teacher is None or not is_finished(recipe.store_path):
        return None

    store = open_store(recipe.store_path)
    columns = {name: round(float(size), 3) for name, size in store.bytes_per_label().items()}
    return {
        "rows": store.num_rows,
        "labels": store.num_labels,
        "codec": store.codec.spec(),
        "bytes_per_label": columns,  # `total` is of the whole files: padding, offsets, keys and names too
    }


def _mix_sizes(recipe: Recipe) -> dict[str, Any]:
    """Rows, labels and rule of the run's mix, and the bytes per label of each of its stores."""
    from kdcore.training.stored_labels import open_labels

    mix = open_labels(recipe)
    assert isinstance(mix, LabelMix)
    sizes = {store.path: round(store.bytes_per_label()["total"], 3) for store in mix.stores}
    weights = " ".join(f"{weight:.3g}" for weight in mix.config.weights)
    return {
        "rows": mix.num_rows,
        "labels": int(mix.num_labels_per_row().sum()),
        "codec": {
            "mix by rule": mix.config.rule,
            "of codecs": " ".join(s.codec.name for s in mix.stores),
            "weights": weights,
        },
        "bytes_per_label": sizes,
    }
