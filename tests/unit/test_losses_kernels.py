"""The loss in Triton kernels: against the torch implementation in float64, in triton's interpreter unless told else."""

import math

import pytest
import torch
from torch import Tensor

from kdcore.config.loss import LossConfig
from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import DenseLabels, SoftLabels
from kdcore.losses.forms import form_of
from kdcore.losses.objective import Objective
from kdcore.losses.sparse.head import LogitRules
from kdcore.losses.sparse.loss import distillation_loss_from_hidden
from tests.support.losses import sparse_of, topk_of

pytest.importorskip("triton")

from kdcore.losses.sparse.kernels.tiles import INTERPRETED

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
        device = DEVICE if implementation == "triton" else "cpu"
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


def check(case: Case, labels: SoftLabels | None, dtype: torch.dtype = torch.float32, **options) -> None:
    """Kernels in `dtype` against torch in float64, of inputs that every type holds exactly."""
    loss, metrics, gradients = case.loss(labels, dtype, "triton", **options)
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_top_k_with_tail_padding_bias_scale_and_softcap(dtype):
    case = Case(tokens=18, width=40, classes=67, beyond=6)
    check(case, topk_of(case.teacher, 5), dtype, objective=objective("kl", 0.3), rules=CAPPED, num_classes=70)


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
def test_every_divergence(chosen):
    case = Case(tokens=5, width=20, classes=40)
    check(case, topk_of(case.teacher, 4), objective=chosen, bias=False)


def test_weights_of_few_classes():
    case = Case(tokens=7, width=16, classes=50)
    check(case, sparse_of(case.teacher, 6), objective=objective("kl", 0.25))


def test_one_token_all_of_whose_classes_are_named():
    case = Case(tokens=1, width=17, classes=70)
    check(case, topk_of(case.teacher, 70), objective=objective("kl"))


def test_no_label_is_the_cross_entropy():
    case = Case(tokens=3, width=16, classes=33)
    check(case, None, bias=False)


def test_a_student_that_gives_the_tail_almost_nothing_has_the_exact_gradient():
    case = Case(tokens=2, width=16, classes=40)
    labels = topk_of(case.teacher[:1].expand(2, 40), 3)
    case.bias.fill_(-90.0)[labels.ids.flatten()] = 0.0
    mass = case.loss(labels, torch.float64, "torch")[1]["support_mass"]
    assert float(case.weights.sum() - mass) < 1e-6  # 1 - sum p has no digit in float32
    check(case, labels)


def test_autocast_computes_narrow_and_gives_wide_gradients():
    case = Case(tokens=4, width=16, classes=40)
    labels = topk_of(case.teacher, 3)
    with torch.autocast(DEVICE, torch.bfloat16):
        loss, _, gradients = case.loss(labels, torch.float32, "triton")
    wanted, _, wanted_gradients = case.loss(labels, torch.bfloat16, "triton")
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    for found, narrow in zip(gradients, wanted_gradients, strict=True):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.to(torch.bfloat16), narrow, rtol=2e-2, atol=2e-2)


def test_a_frozen_head_or_frozen_hidden_states_get_no_gradient_and_the_other_keeps_its():
    case = Case(tokens=3, width=16, classes=33)
    case.weights.fill_(1.0)
    labels = topk_of(case.teacher, 2)
    wanted = case.loss(labels, torch.float64, "torch", bias=False)[2]
    for trained in range(2):
        leaves = [case.hidden.to(DEVICE), case.head.to(DEVICE)]
        leaves[trained].requires_grad_()
        targets = case.targets.to(DEVICE)
        loss, _ = distillation_loss_from_hidden(*leaves, labels.to(DEVICE), targets, implementation="triton")
        (gradient,) = torch.autograd.grad(0.7 * loss, leaves[trained])
        torch.testing.assert_close(gradient.cpu().double(), wanted[trained], rtol=1e-4, atol=1e-5)


def test_the_filter_leaves_out_blocks_all_of_whose_gradients_are_small_but_no_entry():
    case = Case(tokens=3, width=16, classes=96)
    case.bias[32:64] = -9.0  # a block of classes, where tiles are 32 wide
    labels = topk_of(case.teacher, 2)
    exact = case.loss(labels, torch.float32, "triton")
    filtered = case.loss(labels, torch.float32, "triton", gradient_filter=0.01)
    torch.testing.assert_close(filtered[0], exact[0], rtol=0, atol=0)
    torch.testing.assert_close(filtered[2], exact[2], rtol=0, atol=0.03)
    named = torch.zeros(96, dtype=torch.bool).scatter(0, labels.ids.flatten(), True)
    small = torch.arange(96).div(32, rounding_mode="floor") == 1
    rows = [gradients[1].cpu().abs().amax(1) > 0 for _, _, gradients in (exact, filtered)]
    assert rows[0].all()
    assert torch.equal(rows[1], ~small | named)


def test_kernels_that_cannot_make_a_loss_say_so_and_auto_takes_torch():
    case = Case(tokens=2, width=16, classes=20)
    dense = DenseLabels(case.teacher.log_softmax(-1))
    with pytest.raises(ConfigError, match="implementation is 'triton', but the labels have every class"):
        case.loss(dense, torch.float32, "triton")
    with pytest.raises(ConfigError, match=r"products run in torch\.float64"):
        case.loss(topk_of(case.teacher, 2), torch.float64, "triton")
    chosen, wanted = (case.loss(dense, torch.float32, implementation) for implementation in ("auto", "torch"))
    assert torch.equal(chosen[0], wanted[0])
    assert all(map(torch.equal, chosen[2], wanted[2]))
    with pytest.raises(ValueError, match="gradient_filter"):
        LossConfig(implementation="torch", gradient_filter=0.1)
