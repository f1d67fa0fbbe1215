"""Running statistics of BatchNorm: what changes them, and in which type."""

import torch
from torch import nn

from kdcore.config.training import TrainingConfig
from kdcore.training.batches import ImageBatch
from kdcore.training.model import DistillModel
from kdcore.training.statistics import at_rest, widen_statistics


def _student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))


def test_a_rank_without_images_changes_no_statistics():
    student = _student()
    model = DistillModel(student, TrainingConfig(steps=1), uses_labels=False)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    loss, _ = model(ImageBatch(torch.randn(1, 1, 3, 3), torch.empty(0, dtype=torch.int64), None))
    loss.backward()  # of one value a channel, which a layer in training would refuse
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert student[1].training
    model(ImageBatch(torch.randn(2, 1, 5, 5), torch.tensor([0, 1]), None))
    assert not torch.equal(student[1].running_mean, before["1.running_mean"])


def test_layers_that_were_in_eval_stay_there():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2))
    model[0].eval()
    with at_rest(model):
        assert not model[1].training
    assert [layer.training for layer in model] == [False, True]


def test_statistics_beside_narrow_weights_move_on():
    """With a momentum of 0.01 a moving average in bfloat16 stands still at two thirds of the way."""
    narrow, wide = (nn.BatchNorm2d(3, momentum=0.01) for _ in range(2))
    for parameter in narrow.parameters():
        parameter.data = parameter.data.bfloat16()
    widen_statistics(nn.Sequential(narrow))
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        maps = (3 + 2 * torch.randn(8, 3, 2, 2, generator=generator)).bfloat16()
        found, wanted = narrow(maps), wide(maps.float())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=0.03, rtol=0.02)
    assert narrow.running_mean.dtype == torch.float32
    torch.testing.assert_close(narrow.running_mean, wide.running_mean)
    torch.testing.assert_close(narrow.running_var, wide.running_var)
    assert int(narrow.num_batches_tracked) == 400
    narrow.eval()
    torch.testing.assert_close(narrow(maps).float(), wide.eval()(maps.float()), atol=0.03, rtol=0.02)


def test_layers_of_wide_weights_are_left_alone():
    layer = nn.BatchNorm1d(2)
    widen_statistics(nn.Sequential(layer))
    assert "forward" not in vars(layer)
