"""Measurements against references: torchmetrics, plain float64, hand-made models."""

import itertools
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.estimate.text import encoded_texts
from kdcore.config.data import PythonStdlibData
from kdcore.data.document import ImageSample, TextDocument
from kdcore.data.encoding import EncodedText, TextEncoder
from kdcore.data.tokenizer import load_tokenizer
from kdcore.errors import DataError, TrainingError, UnreadableDocument
from kdcore.evaluation.calibration import Calibration
from kdcore.evaluation.classifier import evaluate_classifier, image_batches
from kdcore.evaluation.language import evaluate_lms, heldout_texts
from kdcore.evaluation.latency import latency
from kdcore.evaluation.run import _heldout_refs
from kdcore.labels.spans import spans_of
from kdcore.planning import Corpus, sketch
from tests.support.planning import Memory


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 300), bins=st.integers(2, 20))
def test_calibration_agrees_with_torchmetrics(seed: int, count: int, bins: int) -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.softmax(3 * torch.randn(count, 7, generator=generator), dim=1)
    targets = torch.randint(0, 7, (count,), generator=generator)
    confidence, top = probabilities.max(1)
    ours = Calibration(bins)
    for part in torch.arange(count).split(50):  # in parts: sums must not depend on the batches
        ours.update(confidence[part], (top == targets)[part])
    theirs = multiclass_calibration_error(probabilities, targets, num_classes=7, n_bins=bins, norm="l1")
    assert ours.error() == pytest.approx(float(theirs), abs=1e-5)


def test_calibration_of_certainty() -> None:
    right, wrong = Calibration(15), Calibration(15)
    right.update(torch.ones(4), torch.ones(4, dtype=torch.bool))
    wrong.update(torch.ones(4), torch.zeros(4, dtype=torch.bool))
    assert (right.error(), wrong.error(), Calibration(3).error()) == (0.0, 1.0, 0.0)


class Bigram(torch.nn.Module):
    """A language model whose logits after a token are a fixed row; has more rows than the vocabulary."""

    device = torch.device("cpu")

    def __init__(self, vocab: int, seed: int) -> None:
        super().__init__()
        self.table = torch.randn(vocab + 5, vocab + 5, generator=torch.Generator().manual_seed(seed))
        self.table[:, vocab:] = 50.0  # padding rows must not count

    def forward(self, input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.table[input_ids])


class Tokenizer:
    def get_vocab(self) -> dict[str, int]:
        return {str(index): index for index in range(11)}


@pytest.mark.parametrize("batch", [1, 3, 16])
@pytest.mark.parametrize("context", [4, 9, 64])
def test_language_measurements_are_those_of_float64(batch: int, context: int) -> None:
    rng = np.random.default_rng(0)
    docs = [rng.integers(0, 11, size) for size in (2, 30, 7, 41)]
    model: Any = Bigram(11, seed=1)
    teacher: Any = Bigram(11, seed=2)
    tokenizer: Any = Tokenizer()
    texts = [EncodedText(doc) for doc in docs]
    both = {"model": model, "teacher": teacher}
    found = evaluate_lms(both, tokenizer, texts, "teacher", batch=batch, context=context)["model"]

    inputs = torch.from_numpy(np.concatenate([doc[:-1] for doc in docs]))
    targets = torch.from_numpy(np.concatenate([doc[1:] for doc in docs]))
    ours, theirs = (torch.log_softmax(m.table[inputs][:, :11].double(), 1) for m in (model, teacher))
    loss = -float(ours.gather(1, targets[:, None]).mean())
    assert found["tokens"] == len(targets)
    assert found["loss"] == pytest.approx(loss, abs=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert found["accuracy"] == pytest.approx(float((ours.argmax(1) == targets).double().mean()))
    assert found["agreement"] == pytest.approx(float((ours.argmax(1) == theirs.argmax(1)).double().mean()))
    assert found["kl"] == pytest.approx(float((theirs.exp() * (theirs - ours)).sum(1).mean()), abs=1e-5)


@pytest.mark.parametrize("context", [4, 9, 64])
def test_only_labelled_tokens_are_measured(context: int) -> None:
    rng = np.random.default_rng(1)
    model: Any = Bigram(11, seed=1)
    tokenizer: Any = Tokenizer()
    places = [np.array([0, 1, 5, 28]), np.array([], int), np.array([39])]
    docs = [
        EncodedText(rng.integers(0, 11, size), spans_of(place)) for size, place in zip((30, 7, 41), places, strict=True)
    ]
    found = evaluate_lms({"model": model}, tokenizer, docs, batch=3, context=context)["model"]
    inputs = torch.from_numpy(np.concatenate([doc.tokens[place] for doc, place in zip(docs, places, strict=True)]))
    targets = torch.from_numpy(np.concatenate([doc.tokens[place + 1] for doc, place in zip(docs, places, strict=True)]))
    log_probs = torch.log_softmax(model.table[inputs][:, :11].double(), 1)
    assert found["tokens"] == 5
    assert found["loss"] == pytest.approx(-float(log_probs.gather(1, targets[:, None]).mean()), abs=1e-5)


def test_a_model_agrees_with_itself_and_nan_is_refused() -> None:
    model: Any = Bigram(11, seed=1)
    tokenizer: Any = Tokenizer()
    docs = [EncodedText(np.arange(11))]
    both = evaluate_lms({"teacher": model, "student": model}, tokenizer, docs, "teacher")
    assert both["student"]["agreement"] == 1.0
    assert both["student"]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert "kl" not in both["teacher"]
    model.table[:] = math.nan
    with pytest.raises(TrainingError, match="NaN"):
        evaluate_lms({"model": model}, tokenizer, docs)


def test_heldout_tokens_keep_to_their_share(repo: Path) -> None:
    tokenizer = load_tokenizer(str(repo / "models" / "stdlib-lm-4m"))
    docs = [TextDocument(str(index), f"def f{index}(x): return x\n" * 50) for index in range(30)]
    encoder = TextEncoder(tokenizer, PythonStdlibData())
    kept = [text for _, text in heldout_texts(encoder, docs, 400)]
    assert sum(len(doc.tokens) - 1 for doc in kept) == 400
    assert max(len(doc.tokens) - 1 for doc in kept) <= 50
    with pytest.raises(DataError, match="heldout_fraction"):
        heldout_texts(encoder, [], 400)


def test_image_measurements() -> None:
    def pixels(value: int) -> np.ndarray:
        return np.full((1, 2, 2), value, dtype=np.float32)

    images = [ImageSample(str(i), pixels(i % 3), target=i % 3 if i else 1) for i in range(9)]
    images.append(ImageSample("unknown", pixels(0), target=None))

    def model(batch: torch.Tensor) -> torch.Tensor:
        return 10.0 * torch.nn.functional.one_hot(batch[:, 0, 0, 0].long(), 3)

    found = evaluate_classifier(model, image_batches(images, 4), lambda batch: -model(batch))
    assert found["samples"] == 9
    assert found["accuracy"] == pytest.approx(8 / 9)
    assert found["agreement"] == 0.0
    assert found["loss"] == pytest.approx(10 / 9 + math.log1p(2 * math.exp(-10)), rel=1e-4)
    with pytest.raises(DataError, match="with a class"):
        evaluate_classifier(model, image_batches(images[-1:], 4))


def test_latency_counts_every_repeat() -> None:
    calls: list[int] = []
    found = latency(lambda: calls.append(1), warmup=2, repeats=5)
    assert len(calls) == 7
    assert 0 <= found["p50_ms"] <= found["p95_ms"]


def test_held_out_samples_are_listed_as_far_as_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Memory(["text"] * 100, extent=1)
    source._heldout_fraction = 0.5
    listed, refs = [], source.refs
    monkeypatch.setattr(source, "refs", lambda *args: listed.append(1) or refs(*args))
    found = list(itertools.islice(_heldout_refs(source), 10))
    assert len(listed) < 50
    assert found == source.list("heldout")[:10]
    source.max_samples = 7
    assert list(_heldout_refs(source)) == source.list("heldout")
    with pytest.raises(DataError, match="heldout split"):
        list(_heldout_refs(Memory(["text"])))


def test_an_estimate_looks_at_samples_that_have_tokens() -> None:
    recipe: Any = SimpleNamespace(data=SimpleNamespace(on_unreadable="skip"))
    encoder: Any = SimpleNamespace(encode=lambda document: EncodedText(np.arange(len(document.text))))
    source, empty = Memory(["abc", None, "", "e" * 9]), Memory(["", ""])
    corpus = sketch(Corpus(lambda: source, ""), 9)
    size, found = encoded_texts(recipe, source, corpus, encoder)
    assert (size, sorted(len(text.tokens) for text in found)) == (13, [3, 9])
    with pytest.raises(DataError, match="token to predict"):
        encoded_texts(recipe, empty, sketch(Corpus(lambda: empty, ""), 9), encoder)
    recipe.data.on_unreadable = "error"
    with pytest.raises(UnreadableDocument):
        encoded_texts(recipe, source, corpus, encoder)
