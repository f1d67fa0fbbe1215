import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from kdcore.data.sources import open_source
from kdcore.data.tokenizer import load_tokenizer
from kdcore.errors import IdentityMismatch, MissingLabels
from kdcore.labels.soft_labels import DenseLabels, SparseLabels
from kdcore.store.reader import open_store
from kdcore.training.image_samples import image_samples
from kdcore.training.text_samples import text_samples
from tests.support.training import TOKENIZER, image_recipe, text_recipe, write_corpus, write_labels


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("batches")
    write_corpus(root / "corpus")
    write_labels(text_recipe(root, "labels", teacher=True))
    return root


def entries_of(labels) -> list[tuple[tuple[int, float], ...]]:
    """Classes and weights of each label, sorted."""
    assert isinstance(labels, SparseLabels)
    ends = labels.offsets.tolist()
    entries = list(zip(labels.ids.tolist(), labels.weights.tolist(), strict=True))
    return [tuple(sorted(entries[start:stop])) for start, stop in itertools.pairwise(ends)]


def test_an_epoch_has_every_label_of_every_occurrence_once_with_its_own_tokens(root):
    recipe = text_recipe(root, "epoch", teacher=True)
    samples = text_samples(
        recipe, load_tokenizer(TOKENIZER), uses_labels=True, sequence_length=32, long_documents="cut"
    )
    store = open_store(recipe.store_path)
    assert store.occurrences().tolist().count(2) == 1  # the corpus holds one document twice
    wanted = []
    for row, times in enumerate(store.occurrences()):
        tokens, labels = store.tokens(row), store.labels(row)
        wanted += int(times) * list(zip(tokens[:-1], tokens[1:], entries_of(labels), strict=True))
    seen = []
    for start in range(0, len(samples), 4):
        indices = np.arange(start, min(start + 4, len(samples)))
        batch = samples.batch(indices)
        inputs = batch.input_ids.flatten()[batch.positions]
        assert len(inputs) == samples.tokens(indices)
        seen += list(zip(inputs.tolist(), batch.targets.tolist(), entries_of(batch.labels), strict=True))
    assert sorted(seen) == sorted(wanted)


def test_a_baseline_sees_the_students_tokens_and_no_labels(root):
    recipe = text_recipe(root, "twins", teacher=True)
    tokenizer = load_tokenizer(TOKENIZER)
    student = text_samples(recipe, tokenizer, True, 32, "cut").batch(np.arange(5))
    baseline = text_samples(recipe, tokenizer, False, 32, "cut").batch(np.arange(5))
    from_source = text_samples(text_recipe(root, "alone"), tokenizer, False, 32, "cut").batch(np.arange(5))
    assert student.labels is not None
    for other in (baseline, from_source):
        assert other.labels is None
        assert torch.equal(student.input_ids, other.input_ids)
        assert torch.equal(student.targets, other.targets)


def test_a_rank_without_work_gets_a_batch_without_targets(root):
    recipe = text_recipe(root, "empty", teacher=True)
    batch = text_samples(recipe, load_tokenizer(TOKENIZER), True, 32, "cut").batch(np.zeros(0, dtype=np.int64))
    assert batch.input_ids.shape[0] == 1
    assert batch.labels is not None
    assert len(batch.targets) == len(batch.positions) == batch.labels.num_labels == 0


def test_a_store_of_another_tokenizer_is_refused(root):
    tokenizer = load_tokenizer(TOKENIZER)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|other|>"]})
    with pytest.raises(IdentityMismatch, match=r"student\.tokenizer.*type: span"):
        text_samples(text_recipe(root, "other", teacher=True), tokenizer, True, 32, "cut")


def test_images_find_their_labels_by_key(tmp_path):
    recipe = image_recipe(tmp_path, "join")
    write_labels(recipe)
    source = open_source(recipe.data)
    samples = image_samples(recipe, source, uses_labels=True)
    batch = samples.batch(np.array([3, 0, 7]))
    assert isinstance(batch.labels, DenseLabels)
    for place, number in enumerate((3, 0, 7)):
        alone = samples.batch(np.array([number]))
        assert isinstance(alone.labels, DenseLabels)
        assert torch.equal(alone.pixels[0], batch.pixels[place])
        assert torch.equal(alone.labels.log_probs[0], batch.labels.log_probs[place])
    everything = samples.batch(np.arange(len(samples)))
    assert isinstance(everything.labels, DenseLabels)
    likes = (everything.labels.log_probs.argmax(-1) == everything.targets).float().mean()
    assert likes > 0.6  # the invented teacher likes the hard label: joined wrongly this would be 0.1


def test_an_image_without_a_label_is_refused(tmp_path):
    recipe = image_recipe(tmp_path, "missing")
    write_labels(recipe)
    more = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_samples": 210})})
    with pytest.raises(MissingLabels, match="of"):
        image_samples(more, open_source(more.data), uses_labels=True)
