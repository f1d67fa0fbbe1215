"""Students of language that hear several teachers apart: each term of the loss the labels of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.config import Recipe, TrainingConfig
from kdcore.config.mix import MixConfig
from kdcore.errors import ConfigError
from kdcore.labels import DenseCodec, SpanCodec, TopKCodec
from kdcore.losses.objective import Objective
from kdcore.store import LabelStore
from kdcore.store.mix.mix import LabelMix
from kdcore.training.model import DistillModel
from kdcore.training.needs import check_apart
from kdcore.training.text_samples import StoreRows, TextSamples
from tests.support.labels import codec_of
from tests.support.methods import TERMS
from tests.support.mixes import CLASSES, write_store

KL = {"type": "kl", "temperature": 1}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[LabelStore]:
    root = tmp_path_factory.mktemp("texts")
    codecs = (DenseCodec(CLASSES), DenseCodec(CLASSES), TopKCodec(4, CLASSES), codec_of("threshold", 8, CLASSES))
    return [write_store(root / str(number), number, codec) for number, codec in enumerate(codecs)]


def samples_of(stores: list[LabelStore], rule: str, *weights: float) -> TextSamples:
    given = weights or (None,) * len(stores)
    paths = [{"path": store.path, "weight": weight} for store, weight in zip(stores, given, strict=True)]
    mix = LabelMix(stores, MixConfig.model_validate({"stores": paths, "rule": rule}))
    return TextSamples(StoreRows(mix), 64, True, "refuse")


def model(*losses: dict[str, Any], **loss: Any) -> DistillModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    small: dict[str, Any] = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    student = LlamaForCausalLM(LlamaConfig(vocab_size=CLASSES + 3, **small))
    settings = {"losses": losses} if losses else {"loss": loss}
    return DistillModel(student, TrainingConfig.model_validate({"steps": 1, **settings}), uses_labels=True)


def gradient(made: DistillModel, *batches: Any, progress: float = 0.0) -> tuple[list[torch.Tensor], dict[str, float]]:
    sums: dict[str, float] = {}
    for batch in batches:
        loss, metrics = made(batch, progress)
        loss.backward()
        sums = {name: sums.get(name, 0.0) + float(metrics[name]) for name in made.measures}
    return [value.grad for value in made.student.parameters() if value.grad is not None], sums


def assert_same(ours: list[torch.Tensor], theirs: list[torch.Tensor], times: float = 1.0) -> None:
    assert len(ours) == len(theirs) > 5
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other * times, rtol=1e-3, atol=1e-5)


def test_kl_to_each_is_kl_to_the_mean(stores) -> None:
    two = stores[:2]
    everything = np.arange(4)
    ours, sums = gradient(
        model({**KL, "teacher": 0, "weight": 0.3}, {**KL, "teacher": 1, "weight": 0.7}),
        samples_of(two, "apart").batch(everything),
    )
    theirs, _ = gradient(model(type="kl"), samples_of(two, "arithmetic", 0.3, 0.7).batch(everything))
    assert_same(ours, theirs)
    assert sums["kl"] == pytest.approx((sums["loss/kl"] + sums["loss/kl_2"]) / 2, rel=1e-4)
    assert sums["loss/kl"] != pytest.approx(sums["loss/kl_2"], rel=1e-2)


def test_a_step_in_parts_is_the_step(stores) -> None:
    samples = samples_of(stores, "apart")
    losses = (
        {**KL, "teacher": 0, "weight": 0.5},
        {"type": "jsd", "temperature": 1, "teacher": 2},
        {**KL, "teacher": 3, "warmup": 0.5},
        {"type": "cross_entropy", "weight": 0.2},
    )
    whole, sums = gradient(model(*losses), samples.batch(np.arange(4)), progress=0.25)
    parts = [samples.batch(np.array(part)) for part in ([2], [0, 3], [], [1])]
    ours, others = gradient(model(*losses), *parts, progress=0.25)
    assert_same(ours, whole)
    assert others == pytest.approx(sums, rel=1e-4)
    assert sums["tokens"] == sum(len(part.targets) for part in parts)
    # Each term is that of the one store, weighed.
    wanted = [torch.zeros_like(value) for value in whole]
    for place, (given, weight) in enumerate(zip(losses[:3], (0.5, 1.0, 0.5), strict=True)):
        number = (0, 2, 3)[place]
        alone = TextSamples(StoreRows(stores[number]), 64, True, "refuse")
        found, _ = gradient(model(type=given["type"]), alone.batch(np.arange(4)))
        wanted = [total + weight * value for total, value in zip(wanted, found, strict=True)]
    hard, _ = gradient(
        model(hard_weight=1.0), TextSamples(StoreRows(stores[0]), 64, True, "refuse").batch(np.arange(4))
    )
    assert_same(whole, [total + 0.2 * value for total, value in zip(wanted, hard, strict=True)])


def test_a_baseline_hears_none(stores) -> None:
    config = TrainingConfig.model_validate({"steps": 1, "losses": [{**KL, "teacher": 0}]})
    made = DistillModel(model().student, config, uses_labels=False)
    assert made.terms is None
    assert made.objective == Objective(made.objective.form, 1.0)
    batch = TextSamples(StoreRows(stores[0]), 64, False, "refuse").batch(np.arange(4))
    loss, metrics = made(batch)
    assert float(loss.detach()) == pytest.approx(float(metrics["cross_entropy"]))


def test_what_a_text_cannot_hear_is_refused(stores, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "name": "apart",
        "data": {"type": "text", "path": "x"},
        "labels": {"mix": {"rule": "apart", "stores": [{"path": "a"}, {"path": "b"}]}},
        "student": {"type": "causal_lm", "path": "x"},
        "training": {"steps": 1, "losses": [{**KL, "teacher": 1}, {"type": "cross_entropy"}]},
    }
    Recipe.model_validate(values)
    for losses, message in (
        ([KL], "set `teacher`"),
        ([{**KL, "teacher": 0, "standardise": True}], "without `standardise`"),
        ([{**KL, "teacher": 0}, {"type": "cross_entropy", "smoothing": 0.1}], "without `smoothing`"),
        ([{**KL, "teacher": 0}, {"type": "logits", "teacher": 0}], "losses of text are divergences"),
        ([{"type": "cross_entropy"}], "hear no teacher"),
        ([], "list them"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe.model_validate({**values, "training": {"steps": 1, "losses": losses}})
    with pytest.raises(ValueError, match="with rule apart"):
        Recipe.model_validate({**values, "labels": {}})
    hot, third = TERMS.validate_python({"type": "kl", "teacher": 1}), TERMS.validate_python({**KL, "teacher": 2})
    with pytest.raises(ConfigError, match="temperature to 1"):
        check_apart([hot], [stores[0].codec, stores[3].codec])
    check_apart([third], [store.codec for store in stores])
    with pytest.raises(ConfigError, match="all classes"):
        check_apart([third], [stores[0].codec, stores[1].codec, SpanCodec()])
