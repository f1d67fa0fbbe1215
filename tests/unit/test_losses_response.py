import pytest
import torch

from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import DenseLabels
from kdcore.losses.forms import KL
from kdcore.losses.objective import Objective
from kdcore.losses.response.soft_targets import soft_target_loss
from tests.support.losses import definition_of, topk_of


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(7, 5, generator=generator, requires_grad=True)
    teacher = 2 * torch.randn(7, 5, generator=generator)
    return student, teacher, torch.randint(5, (7,), generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("hard_weight", [0.1, 0.5])  # at 0 torchdistill leaves out its T^2
@pytest.mark.parametrize("kind", ["dense", "topk"])
def test_it_is_the_loss_of_torchdistill(case, kind, temperature, hard_weight):
    KDLoss = definition_of("torchdistill", "losses/mid_level.py", "KDLoss")
    student, teacher, targets = case
    dense = DenseLabels(teacher.log_softmax(-1))
    labels, tail = (dense, None) if kind == "dense" else (topk_of(teacher, 5), "drop")
    objective = Objective(KL, hard_weight, temperature, tail)
    loss, metrics = soft_target_loss(student, labels, targets, objective=objective)
    theirs = KDLoss("net", "output", "net", "output", temperature=temperature, alpha=hard_weight)
    wanted = theirs({"net": {"output": student}}, {"net": {"output": teacher}}, targets)
    torch.testing.assert_close(loss / 7, wanted)
    torch.testing.assert_close(metrics["cross_entropy"] / 7, torch.nn.functional.cross_entropy(student, targets))
    ours, by_them = (torch.autograd.grad(value, student)[0] for value in (loss / 7, wanted))
    torch.testing.assert_close(ours, by_them)


def test_logits_in_bfloat16_have_gradients_in_bfloat16_of_a_loss_in_float32(case):
    student, teacher, targets = case
    narrow = student.detach().bfloat16().requires_grad_()
    loss, _ = soft_target_loss(narrow, topk_of(teacher, 2), targets)
    exact, _ = soft_target_loss(narrow.detach().float(), topk_of(teacher, 2), targets)
    assert torch.autograd.grad(loss, narrow)[0].dtype == torch.bfloat16
    torch.testing.assert_close(loss, exact)


def test_without_labels_it_is_the_cross_entropy(case):
    student, _, targets = case
    loss, metrics = soft_target_loss(student, None, targets, temperature=4.0, hard_weight=0.1)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(student, targets, reduction="sum"))
    assert metrics["tokens"].item() == 7


def test_a_tail_cell_has_no_temperature(case):
    student, teacher, targets = case
    labels = topk_of(teacher, 2)
    soft_target_loss(student, labels, targets)
    with pytest.raises(ConfigError, match="type: dense"):
        soft_target_loss(student, labels, targets, temperature=2.0)
