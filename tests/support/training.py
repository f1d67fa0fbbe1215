"""Small corpora, and label stores of an invented teacher, for tests of training."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdcore.config import Recipe
from kdcore.config.models import TeacherImageConfig
from kdcore.data.document import ImageSample, TextDocument
from kdcore.data.sources import open_source
from kdcore.data.tokenizer import encode_document, load_tokenizer, valid_vocabulary
from kdcore.data.viewed import view_spec
from kdcore.data.views import pack_views, views_of
from kdcore.identity import digest_tokenizer
from kdcore.labels import label_seeds
from kdcore.labels.learn import ProbeBatch, learn_codec
from kdcore.labels.views.spec import ViewSpec
from kdcore.models.image import build_image_model, save_image_model
from kdcore.planning import plan_units
from kdcore.store import (
    ShardRow,
    batches_from_rows,
    open_for_writing,
    publish_manifest,
    publish_receipt,
    read_journal,
    store_schema,
    write_shard,
)

Weights = dict[str, torch.Tensor]
TOKENIZER = str(Path(__file__).parents[2] / "models" / "stdlib-lm-4m")


def assert_near(found: Weights, wanted: Weights, start: Weights, share: float) -> None:
    """That training went the same way: the difference is less than `share` of the way from `start`."""
    assert set(found) == set(wanted)

    def apart(ours: Weights, theirs: Weights) -> float:
        return sum(float((ours[name].float() - theirs[name].float()).square().sum()) for name in wanted) ** 0.5

    way = apart(wanted, start)
    assert way > 0
    assert apart(found, wanted) < share * way


def write_corpus(folder: Path, documents: int = 12) -> None:
    """Documents of ragged length; the last two are identical."""
    folder.mkdir(parents=True, exist_ok=True)
    random_lengths = random.Random(0)
    lengths = [1 + random_lengths.randrange(20) for _ in range(documents)]
    for number in range(documents):
        name = min(number, documents - 2)
        times = lengths[name]
        (folder / f"{number:02d}.txt").write_text(f"def f{name}(x):\n    return x + {name}\n" * times)


def text_recipe(root: Path, name: str, teacher: bool = False, **training: Any) -> Recipe:
    """A recipe over the corpus in ROOT/corpus, with a two-layer student; ROOT/labels is its store."""
    architecture = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    }
    settings = {
        "steps": 6,
        "batch_size": 6,
        "sequence_length": 32,
        "long_documents": "cut",
        "optimizer": {"learning_rate": 1e-2},
        "log_every_steps": 1,
        "checkpoint": {"every_steps": 2},
        **training,
    }
    return Recipe.model_validate(
        {
            "name": name,
            "runs": str(root / "runs"),
            "data": {"type": "text", "path": str(root / "corpus" / "*.txt"), "heldout_fraction": 0.0},
            "teacher": {"type": "causal_lm", "path": TOKENIZER} if teacher else None,
            "labels": {"path": str(root / "labels"), "codec": {"type": "threshold", "draws": 8}, "unit_bytes": 2000},
            "student": {"type": "causal_lm", "architecture": architecture, "tokenizer": TOKENIZER},
            "training": settings,
        }
    )


def image_recipe(root: Path, name: str, codec: str = "dense", **training: Any) -> Recipe:
    """Digits, a convnet teacher and student."""
    settings = {"steps": 6, "batch_size": 32, "log_every_steps": 1, **training}
    convnet = {"type": "image_classifier", "source": "convnet", "kwargs": {"width": 4, "depth": 2}}
    return Recipe.model_validate(
        {
            "name": name,
            "runs": str(root / "runs"),
            "data": {"type": "digits", "max_samples": 200},
            "teacher": {**convnet, "fit": settings},
            "labels": {"path": str(root / "labels"), "codec": {"type": codec}},
            "student": convnet,
            "training": settings,
        }
    )


def distilled_images(root: Path, name: str, network: str = "normed", **training: Any) -> Recipe:
    """A network below learns digits from the live teacher in ROOT/teacher, of `write_image_teacher`."""
    recipe = image_recipe(root, name, **training).model_dump(mode="json")
    recipe["teacher"] |= {"fit": None, "path": str(root / "teacher")}
    recipe["student"] = {"type": "image_classifier", "source": "import", "name": f"{__name__}:{network}"}
    return Recipe.model_validate(recipe)


def normed(num_classes: int, in_channels: int) -> torch.nn.Module:
    """Maps [B, 4, 8, 8] at `1` and `2`, of BatchNorm and of what follows it in place."""
    layers = [torch.nn.Conv2d(in_channels, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(inplace=True)]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4 * 64, num_classes))


def plain(num_classes: int, in_channels: int) -> torch.nn.Module:
    """The same without BatchNorm, so that samples have nothing to do with each other."""
    network = normed(num_classes, in_channels)
    network.register_module("1", torch.nn.Identity())
    return network


def write_image_teacher(root: Path) -> None:
    """An image classifier with weights of no use as ROOT/teacher."""
    recipe = image_recipe(root, "unused")
    assert isinstance(recipe.teacher, TeacherImageConfig)
    torch.manual_seed(1)
    source = open_source(recipe.data)
    shape = int(source.num_classes or 0), int(source.num_channels or 0)
    save_image_model(build_image_model(recipe.teacher, *shape), recipe.teacher, *shape, root / "teacher")


def write_labels(recipe: Recipe, teacher: int = 0) -> None:
    """The recipe's label store, from a teacher whose logits are noise plus a liking for the hard label.

    Another `teacher` is another noise.
    """
    source = open_source(recipe.data)
    tokenizer = load_tokenizer(TOKENIZER) if source.kind == "text" else None
    classes = valid_vocabulary(tokenizer) if tokenizer is not None else int(source.num_classes or 0)
    plan, parts = plan_units(source, "train", recipe.labels.unit_bytes)
    planned = [sample for part in parts for sample in part]
    spec = view_spec(recipe.data)
    each = 1 if spec is None else spec.per_image
    answers = {key: _answer(source.read(ref), key, classes, tokenizer, each, teacher) for ref, key, _ in planned}
    probe = [
        ProbeBatch(logits, _hard(tokens), label_seeds(key, len(logits))) for key, (tokens, logits) in answers.items()
    ]
    codec = learn_codec(recipe.codec, classes, probe).codec
    digest = None if tokenizer is None else digest_tokenizer(tokenizer)
    identity = {"format": 1, "kind": source.kind, "teacher": {}, "tokenizer": digest, "codec": codec.spec()}
    identity = {**identity, "vocabulary": classes, "numerics": {}, "input": plan.input.digest, "versions": {}}
    views = None if spec is None else spec.to_json()
    identity |= {} if views is None else {"views": views}
    store, schema = recipe.store_path, store_schema(source.kind, codec, views=views)
    open_for_writing(store, identity)
    for unit, part in zip(plan.units, parts, strict=True):
        rows = [_row(source.read(ref), key, times, codec, answers[key]) for ref, key, times in part]
        rows = rows if spec is None else _with_views(rows, spec)
        batches = batches_from_rows(schema, rows)
        publish_receipt(store, write_shard(store, unit.id, 0, schema, batches, unit_digest=unit.digest))
    receipts = read_journal(store, {unit.id: unit.digest for unit in plan.units})
    publish_manifest(store, identity, receipts, {}, codec.state())


Answer = tuple[np.ndarray | None, torch.Tensor]
"""Tokens of a text, and the logits of its labels."""


def _hard(tokens: np.ndarray | None) -> np.ndarray | None:
    return None if tokens is None else tokens[1:]


def _with_views(rows: list[ShardRow], spec: ViewSpec) -> list[ShardRow]:
    keys = [row.key for row in rows]
    flat, lengths = pack_views(spec.policy, views_of(spec.policy, keys, keys))
    packed = np.split(flat, np.cumsum(lengths)[:-1])
    return [replace(row, columns={**row.columns, "views": each}) for row, each in zip(rows, packed, strict=True)]


def _answer(sample: Any, key: bytes, classes: int, tokenizer: Any, views: int, teacher: int) -> Answer:
    generator = torch.Generator().manual_seed(int.from_bytes(key[:4], "little") + teacher)
    if isinstance(sample, ImageSample):
        logits = torch.randn(views, classes, generator=generator)
        logits[:, sample.target or 0] += 3
        return None, logits
    assert isinstance(sample, TextDocument)
    tokens = encode_document(tokenizer, sample.text)
    logits = torch.randn(len(tokens) - 1, classes, generator=generator)
    hard = torch.from_numpy(tokens[1:])[:, None]
    return tokens, logits.scatter_add_(1, hard, torch.full(hard.shape, 8.0))


def _row(sample: Any, key: bytes, times: int, codec: Any, answer: Answer) -> ShardRow:
    tokens, logits = answer
    columns = codec.pack([codec.encode(logits, label_seeds(key, len(logits)))], [_hard(tokens)])[0]
    if tokens is None:
        return ShardRow(key, sample.name, times, columns, target=sample.target)
    log_probs = logits.log_softmax(-1).gather(1, torch.from_numpy(tokens[1:])[:, None]).squeeze(1)
    columns["token_log_probs"] = log_probs.numpy().astype("float16")
    return ShardRow(key, sample.name, times, columns, tokens=tokens)
