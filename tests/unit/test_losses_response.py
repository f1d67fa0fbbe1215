import pytest
import torch

from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import DenseLabels, TopKLabels
from kdcore.losses.response import soft_target_loss


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(7, 5, generator=generator, requires_grad=True)
    teacher = 2 * torch.randn(7, 5, generator=generator)
    return student, teacher, torch.randint(5, (7,), generator=generator)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("hard_weight", [0.1, 0.5])  # at 0 torchdistill leaves out its T^2
def test_it_is_the_loss_of_torchdistill(case, temperature, hard_weight):
    losses = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher, targets = case
    labels = DenseLabels(teacher.log_softmax(-1))
    loss, metrics = soft_target_loss(student, labels, targets, temperature=temperature, hard_weight=hard_weight)
    theirs = losses.KDLoss("net", "output", "net", "output", temperature=temperature, alpha=hard_weight)
    wanted = theirs({"net": {"output": student}}, {"net": {"output": teacher}}, targets)
    torch.testing.assert_close(loss / 7, wanted)
    torch.testing.assert_close(metrics["cross_entropy"] / 7, torch.nn.functional.cross_entropy(student, targets))
    ours, by_them = (torch.autograd.grad(value, student)[0] for value in (loss / 7, wanted))
    torch.testing.assert_close(ours, by_them)


def test_without_labels_it_is_the_cross_entropy(case):
    student, _, targets = case
    loss, metrics = soft_target_loss(student, None, targets, temperature=4.0, hard_weight=0.1)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(student, targets, reduction="sum"))
    assert metrics["tokens"].item() == 7


def test_a_tail_cell_has_no_temperature(case):
    student, teacher, targets = case
    values, ids = teacher.log_softmax(-1).topk(2)
    labels = TopKLabels(ids, values, (-values.exp().sum(-1)).log1p(), 5)
    soft_target_loss(student, labels, targets)
    with pytest.raises(ConfigError, match="type: dense"):
        soft_target_loss(student, labels, targets, temperature=2.0)
