"""Tokens of texts in losses of features and relations: padding counts nowhere, or the loss is refused when built."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.config.losses import FeatureTerm, LossTerm
from kdcore.config.losses.base import PlacesTerm, VectorTerm
from kdcore.errors import ConfigError
from kdcore.losses.method import LossInputs, Shapes
from kdcore.losses.registry import make_method
from kdcore.losses.tokens import pool_tokens
from tests.support.methods import EXAMPLES, term

CLASSES, BATCH, LENGTH, WIDTHS = 5, 4, 6, (8, 12)
OF_FEATURES = [name for name in sorted(EXAMPLES) if isinstance(term(name), FeatureTerm)]
OF_FEATURES.remove("sskd")  # of pixels
OF_FEATURES.remove("amtml")  # of whole samples
VECTORS = [name for name in OF_FEATURES if isinstance(term(name), VectorTerm)]
PLACES = [name for name in OF_FEATURES if isinstance(term(name), PlacesTerm)]
MAPS = (
    *("adain", "attention_transfer", "cat_kd", "common_space", "factor_transfer", "feed", "fsp", "heatmaps", "ickd"),
    "knowledge_adaptation",
    *("local_correlation", "masked_generative", "matching_guided", "mhgd", "nst", "ofd", "pairwise_affinity"),
    *("review_kd", "sem_ckd", "sim_kd", "singular_vectors", "tofd", "wkd_feature"),
)


def of_tokens(name: str, **settings: Any) -> LossTerm:
    heads = {"heads": 2} if "heads" in EXAMPLES[name] else {}
    return term(name, **{"at": ("a", "b"), "teacher_at": ("a", "b"), **heads, **settings})


def shapes(length: int = LENGTH, teacher: tuple[int, ...] | None = None, **facts: Any) -> Shapes:
    ours, theirs = (dict.fromkeys(("a", "b"), (length, width)) for width in WIDTHS)
    return Shapes(ours, theirs if teacher is None else dict.fromkeys(("a", "b"), teacher), CLASSES, BATCH, **facts)


def texts(padding: int = 0) -> LossInputs:
    """Of 1, 3, 5 and 6 tokens, with what stands for nothing beyond them, and `padding` more of it."""
    generator = torch.Generator().manual_seed(0)
    lengths, length = torch.tensor([1, 3, 5, 6]), LENGTH + padding
    mask = torch.arange(length) < lengths[:, None]
    logits = [torch.randn(BATCH, CLASSES, generator=generator) for _ in range(2)]

    def states(width: int) -> Tensor:
        held = torch.randn(BATCH, LENGTH, width, generator=generator)
        junk = 50.0 + padding + torch.zeros(BATCH, length, width)
        return torch.where(mask[..., None], torch.nn.functional.pad(held, (0, 0, 0, padding)), junk)

    student, teacher = ({path: states(width) for path in ("a", "b")} for width in WIDTHS)
    for one in student.values():
        one.requires_grad_()
    given = LossInputs(*logits, torch.arange(BATCH), student, teacher, indices=torch.arange(BATCH), mask=mask)
    return replace(given, progress=0.5)


def value_and_slope(loss: LossTerm, given: LossInputs, made_for: Shapes) -> tuple[Tensor, Tensor]:
    """Of the student's layer `a`."""
    torch.manual_seed(0)
    value = make_method(loss, made_for)(given)
    return value.detach(), torch.autograd.grad(value, given.student["a"])[0]


@pytest.mark.parametrize("name", MAPS)
def test_losses_of_maps_refuse_tokens_as_they_are_built(name):
    with pytest.raises(ConfigError, match=r"B, [CK], H, W\]"):
        make_method(of_tokens(name), shapes())


def test_shares_of_teachers_are_learnt_of_whole_samples():
    with pytest.raises(ConfigError, match="looks at maps or vectors of a sample, and 'a' gives tokens"):
        make_method(of_tokens("amtml"), shapes())


@pytest.mark.parametrize("name", [name for name in OF_FEATURES if name not in MAPS])
def test_padding_changes_nothing(name):
    loss = of_tokens(name)
    few, many = (value_and_slope(loss, texts(more), shapes(LENGTH + more)) for more in (0, 3))
    torch.testing.assert_close(few[0], many[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(few[1], many[1][:, :LENGTH], rtol=1e-4, atol=1e-6)
    held = texts(3).mask
    assert held is not None
    assert float(many[1][held].abs().sum()) > 0
    assert float(many[1][~held].abs().sum()) == 0


@pytest.mark.parametrize("name", [*VECTORS, *PLACES])
@pytest.mark.parametrize("pool", ["first", "last"])
def test_one_token_may_stand_for_all(name, pool):
    _, slope = value_and_slope(of_tokens(name, pool=pool), texts(), shapes())
    held = slope.abs().sum(2) > 0
    assert held.sum(1).max() == 1
    assert set(held.nonzero()[:, 1].tolist()) <= ({0} if pool == "first" else {0, 2, 4, 5})
    assert held.any()


def test_what_stands_for_tokens():
    states = torch.randn(2, 4, 3)
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])  # padded on the left too
    torch.testing.assert_close(
        pool_tokens(states, mask, "mean"), torch.stack([states[0, 1:3].mean(0), states[1].mean(0)])
    )
    assert torch.equal(pool_tokens(states, mask, "first"), torch.stack([states[0, 1], states[1, 0]]))
    assert torch.equal(pool_tokens(states, mask, "last"), torch.stack([states[0, 2], states[1, 3]]))
    torch.testing.assert_close(pool_tokens(states.bfloat16(), None, "mean"), states.bfloat16().float().mean(1))
    assert pool_tokens(states, torch.zeros_like(mask), "mean").eq(0).all()


@pytest.mark.parametrize("name", ["rkd", "crd", "fitnet", "vid", "activation_boundary"])
def test_the_first_token_of_a_store_goes_with_the_first_alone(name):
    stored = shapes(teacher=(12,), of_first_tokens=True)
    with pytest.raises(ConfigError, match=r"tokens of 'a', .*`pool: first`.*live_teacher: true"):
        make_method(of_tokens(name), stored)
    given = texts()
    first = {path: states[:, 0] for path, states in given.teacher.items()}
    found = value_and_slope(of_tokens(name, pool="first"), replace(given, teacher=first), stored)
    wanted = value_and_slope(of_tokens(name, pool="first"), given, shapes())
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("theirs", [(12,), (7, 12), (4, 3, 3)])
def test_features_of_two_kinds_cannot_be_compared_place_by_place(name, theirs):
    with pytest.raises(ConfigError, match="place by place"):
        make_method(of_tokens(name), shapes(teacher=theirs))


def test_a_layer_of_other_tokens_than_the_inputs():
    given = texts()
    assert given.mask is not None
    with pytest.raises(ConfigError, match="likely the network joins or adds tokens"):
        make_method(of_tokens("rkd"), shapes())(replace(given, mask=given.mask[:, :4]))
