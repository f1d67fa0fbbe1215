"""The loss in Triton kernels: against the torch implementation in float64, in triton's interpreter unless told else."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from kdcore.config.loss import LossConfig
from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import DenseLabels, SoftLabels
from kdcore.losses.forms import form_of
from kdcore.losses.objective import Objective
from kdcore.losses.sparse.head import LogitRules
from kdcore.losses.sparse.implementation import chunk_size, implementation_of
from kdcore.losses.sparse.loss import distillation_loss_from_hidden
from tests.support.losses import sparse_of, topk_of

pytest.importorskip("triton")

from kdcore.losses.sparse.kernels.tiles import INTERPRETED, tiles_of

DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="no GPU, and not interpreted")


class Case:
    """Tensors of one loss; `classes` of the labels, `beyond` rows of the head that they do not know."""

    def __init__(self, tokens: int, width: int, classes: int, beyond: int = 0, scale: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(tokens * 7 + width)

        def normal(factor: float, *shape: int) -> Tensor:
            return (factor * torch.randn(shape, generator=generator)).to(torch.bfloat16).float()

        self.hidden = normal(scale, tokens, width)
        self.head = normal(1 / math.sqrt(width), classes + beyond, width)
        self.bias = normal(1.0, classes + beyond)
        self.teacher = normal(3.0, tokens, classes)
        self.targets = torch.randint(classes, (tokens,), generator=generator)
        self.weights = torch.rand(tokens, generator=generator)

    def loss(self, labels: SoftLabels | None, dtype: torch.dtype, implementation: str, bias: bool = True, **options):
        """Loss, metrics and gradients of 0.7 x loss."""
        device = DEVICE if implementation in ("fused", "triton") else "cpu"
        options.setdefault("chunk_tokens", 4)
        leaves = [value.to(device, dtype).requires_grad_() for value in (self.hidden, self.head, self.bias)]
        loss, metrics = distillation_loss_from_hidden(
            leaves[0],
            leaves[1],
            None if labels is None else labels.to(device),
            self.targets.to(device),
            head_bias=leaves[2] if bias else None,
            weights=self.weights.to(device, torch.float64 if dtype == torch.float64 else torch.float32),
            implementation=implementation,
            **options,
        )
        leaves = leaves if bias else leaves[:2]
        return loss.detach(), metrics, torch.autograd.grad(0.7 * loss, leaves)


@pytest.fixture(params=["fused", "triton"])
def kernels(request, monkeypatch) -> str:
    """Passes over chunks of logits, and tiles."""
    if INTERPRETED:  # a GPU does not round logits to bfloat16 before they are widened
        monkeypatch.setattr("kdcore.losses.sparse.loss.wide_product", lambda a, b, wide: a.to(wide) @ b.to(wide))
    return request.param


def check(
    case: Case, labels: SoftLabels | None, kernels: str, dtype: torch.dtype = torch.float32, **options: Any
) -> None:
    """Kernels in `dtype` against torch in float64, of inputs that every type holds exactly."""
    loss, metrics, gradients = case.loss(labels, dtype, kernels, **options)
    wanted, wanted_metrics, wanted_gradients = case.loss(labels, torch.float64, "torch", **options)
    close = {"rtol": 2e-5, "atol": 2e-5}
    torch.testing.assert_close(loss.cpu().double(), wanted, **close)
    for name, value in wanted_metrics.items():
        torch.testing.assert_close(
            metrics[name].cpu().double(), value, **close, msg=lambda text, n=name: f"{n}: {text}"
        )
    # The interpreter cuts where a GPU rounds to bfloat16.
    share = 2e-2 if dtype == torch.bfloat16 else 2e-5
    for found, gradient in zip(gradients, wanted_gradients, strict=True):
        assert found.dtype == dtype
        assert (found.cpu().double() - gradient).abs().max() <= share * max(1.0, gradient.abs().max())


def objective(form: str, hard_weight: float = 0.0, tail: str | None = None, temperature: float = 1.0, **parameters):
    return Objective(form_of(form, **parameters), hard_weight, temperature, tail)  # pyright: ignore[reportArgumentType]


CAPPED = LogitRules(1.5, softcap=4.0)


@pytest.mark.parametrize(("dtype", "tokens"), [(torch.float32, 18), (torch.bfloat16, 5)])
def test_top_k_with_tail_padding_bias_scale_and_softcap(dtype, tokens, kernels):
    case = Case(tokens, width=40, classes=67, beyond=6)
    check(case, topk_of(case.teacher, 5), kernels, dtype, objective=objective("kl", 0.3), rules=CAPPED, num_classes=70)


@pytest.mark.parametrize(
    "chosen",
    [
        objective("jsd", beta=0.3),
        objective("reverse_kl"),
        objective("adaptive_kl", 0.2, head_mass=0.5),
        objective("total_variation"),
        objective("skew_kl", tail="label", alpha=0.1),
        objective("skew_reverse_kl", tail="drop", temperature=2.0, alpha=0.1),
    ],
    ids=lambda chosen: chosen.form.name,
)
def test_every_divergence(chosen, kernels):
    case = Case(tokens=5, width=20, classes=40)
    check(case, topk_of(case.teacher, 4), kernels, objective=chosen, bias=False)


def test_weights_of_few_classes(kernels):
    case = Case(tokens=7, width=16, classes=50)
    check(case, sparse_of(case.teacher, 6), kernels, objective=objective("kl", 0.25))


def test_one_token_all_of_whose_classes_are_named(kernels):
    case = Case(tokens=1, width=17, classes=70)
    check(case, topk_of(case.teacher, 70), kernels, objective=objective("kl"))


def test_no_label_is_the_cross_entropy(kernels):
    case = Case(tokens=3, width=16, classes=33)
    check(case, None, kernels, bias=False)


def test_a_student_that_gives_the_tail_almost_nothing_has_the_exact_gradient(kernels):
    case = Case(tokens=2, width=16, classes=40)
    labels = topk_of(case.teacher[:1].expand(2, 40), 3)
    case.bias.fill_(-90.0)[labels.ids.flatten()] = 0.0
    mass = case.loss(labels, torch.float64, "torch")[1]["support_mass"]
    assert float(case.weights.sum() - mass) < 1e-6  # 1 - sum p has no digit in float32
    check(case, labels, kernels)


def test_autocast_computes_narrow_and_gives_wide_gradients(kernels):
    case = Case(tokens=4, width=16, classes=40)
    labels = topk_of(case.teacher, 3)
    with torch.autocast(DEVICE, torch.bfloat16):
        loss, _, gradients = case.loss(labels, torch.float32, kernels)
    wanted, _, wanted_gradients = case.loss(labels, torch.bfloat16, kernels)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    for found, narrow in zip(gradients, wanted_gradients, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.to(torch.bfloat16), narrow, rtol=2e-2, atol=2e-2)


def test_a_frozen_head_or_frozen_hidden_states_get_no_gradient_and_the_other_keeps_its(kernels):
    case = Case(tokens=3, width=16, classes=33)
    case.weights.fill_(1.0)
    labels = topk_of(case.teacher, 2)
    wanted = case.loss(labels, torch.float64, "torch", bias=False)[2]
    for trained in range(2):
        leaves = [case.hidden.to(DEVICE), case.head.to(DEVICE)]
        leaves[trained].requires_grad_()
        targets = case.targets.to(DEVICE)
        loss, _ = distillation_loss_from_hidden(*leaves, labels.to(DEVICE), targets, implementation=kernels)
        (gradient,) = torch.autograd.grad(0.7 * loss, leaves[trained])
        torch.testing.assert_close(gradient.cpu().double(), wanted[trained], rtol=1e-4, atol=1e-5)


def test_the_filter_leaves_out_blocks_all_of_whose_gradients_are_small_but_no_entry():
    columns = tiles_of(torch.float32).columns
    case = Case(tokens=3, width=16, classes=3 * columns)
    case.bias[columns : 2 * columns] = -9.0
    labels = topk_of(case.teacher, 2)
    exact = case.loss(labels, torch.float32, "triton")
    filtered = case.loss(labels, torch.float32, "triton", gradient_filter=0.01)
    torch.testing.assert_close(filtered[0], exact[0], rtol=0, atol=0)
    torch.testing.assert_close(filtered[2], exact[2], rtol=0, atol=0.03)
    named = torch.zeros(len(case.head), dtype=torch.bool).scatter(0, labels.ids.flatten(), True)
    small = torch.arange(len(case.head)).div(columns, rounding_mode="floor") == 1
    rows = [gradients[1].cpu().abs().amax(1) > 0 for _, _, gradients in (exact, filtered)]
    assert rows[0].all()
    assert torch.equal(rows[1], ~small | named)


def test_a_chunk_in_kernels_is_as_one_made_again_in_the_backward_pass_and_as_one_of_all_tokens():
    case = Case(tokens=6, width=16, classes=40, beyond=3)
    options: dict[str, Any] = {"objective": objective("jsd", 0.3, beta=0.4), "rules": CAPPED}
    labels = topk_of(case.teacher, 3)
    wanted = case.loss(labels, torch.float32, "fused", **options)
    for others in ({"recompute": True}, {"chunk_tokens": "auto"}):
        found = case.loss(labels, torch.float32, "fused", **options, **others)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_target_that_a_label_names_that_is_the_tails_and_that_no_label_knows(kernels):
    case = Case(tokens=3, width=16, classes=40, beyond=30)
    labels = topk_of(case.teacher, 3)
    unnamed = next(number for number in range(40) if number not in labels.ids[1])
    case.targets = torch.tensor([int(labels.ids[0, 1]), unnamed, 66])
    check(case, labels, kernels, objective=objective("kl", 0.4), rules=CAPPED, num_classes=68)


def test_auto_takes_fused_passes_where_kernels_can_be_used_and_tiles_with_a_filter(monkeypatch):
    hidden = torch.zeros(3, 6000)
    assert implementation_of("auto", hidden, None, 0.0) == "torch"
    monkeypatch.setattr("kdcore.losses.sparse.implementation._problem", lambda *_: None)
    assert implementation_of("auto", hidden, None, 0.0) == "fused"
    assert implementation_of("auto", hidden, None, 0.01) == "triton"
    assert implementation_of("torch", hidden, None, 0.0) == "torch"
    heads = [torch.empty(classes, 1, device="meta") for classes in (200_000, 32_768, 100)]
    assert [chunk_size("auto", hidden, head, False) for head in heads] == [1024, 1024, 1024]
    assert [chunk_size("auto", hidden, head, True) for head in heads] == [3000, 4096, 16_384]
    assert chunk_size(7, hidden, heads[0], True) == 7


def test_kernels_that_cannot_make_a_loss_say_so_and_auto_takes_torch(kernels):
    case = Case(tokens=2, width=16, classes=20)
    dense = DenseLabels(case.teacher.log_softmax(-1))
    with pytest.raises(ConfigError, match=f"implementation is '{kernels}', but the labels have every class"):
        case.loss(dense, torch.float32, kernels)
    with pytest.raises(ConfigError, match=r"products run in torch\.float64"):
        case.loss(topk_of(case.teacher, 2), torch.float64, kernels)
    chosen, wanted = (case.loss(dense, torch.float32, implementation) for implementation in ("auto", "torch"))
    assert torch.equal(chosen[0], wanted[0])
    assert all(map(torch.equal, chosen[2], wanted[2]))
    for exact in ("torch", "fused"):
        with pytest.raises(ValueError, match="gradient_filter"):
            LossConfig(implementation=exact, gradient_filter=0.1)
