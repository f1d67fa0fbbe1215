"""Running statistics of BatchNorm: what changes them, and in which type."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from kdcore.config.training import TrainingConfig
from kdcore.losses.projectors import ChannelNorm
from kdcore.students.build import checkpoint_activations
from kdcore.training.batches import ImageBatch
from kdcore.training.engines.torch_engine import TorchEngine
from kdcore.training.model import DistillModel
from kdcore.training.ranks import Ranks
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


class _OwnForward(nn.BatchNorm2d):
    """As timm's that have an activation with them."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps
        ).relu()


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (_OwnForward(3), torch.bfloat16),
        (nn.InstanceNorm2d(3, affine=True, track_running_stats=True), torch.bfloat16),
        (nn.BatchNorm2d(3, momentum=None), torch.bfloat16),
        (ChannelNorm(3), torch.float32),
    ],
    ids=["own forward", "instances", "cumulative", "ours"],
)
def test_layers_with_a_forward_pass_of_their_own_take_narrow_weights(layer, kind):
    for parameter in layer.parameters():
        parameter.data = parameter.data.bfloat16()
    widen_statistics(nn.Sequential(layer))
    assert layer(torch.randn(4, 3, 2, 2).bfloat16()).dtype == torch.bfloat16
    assert layer.running_mean.dtype == kind
    assert float(layer.running_mean.abs().max()) > 0


class _Checkpointed(nn.Module):
    """Computes its body again in the backward pass, once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.again = _student(), False

    def set_grad_checkpointing(self, enable: bool) -> None:
        self.again = enable

    def forward(self, pixels: Tensor) -> Tensor:
        return checkpoint(self.body, pixels, use_reentrant=False) if self.again else self.body(pixels)


def _engine(student: nn.Module, **settings) -> TorchEngine:
    config = TrainingConfig.model_validate({"steps": 1, **settings})
    return TorchEngine(DistillModel(student, config, uses_labels=False), config, Ranks(0, 1, torch.device("cpu")))


def test_activations_that_are_computed_again_move_statistics_once():
    plain, again = _Checkpointed(), _Checkpointed()
    checkpoint_activations(again)
    engines = [_engine(plain), _engine(again, activation_checkpointing=True)]
    pixels = torch.randn(4, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    for engine in engines:
        engine.accumulate(ImageBatch(pixels, torch.tensor([0, 1, 2, 0]), None), 1.0, last=True)
    ours, wanted = again.state_dict(), plain.state_dict()
    assert float(wanted["body.1.running_mean"].abs().max()) > 0
    assert all(torch.equal(ours[name], wanted[name]) for name in wanted)
    before = {name: value.clone() for name, value in ours.items()}
    engines[1].accumulate(ImageBatch(pixels[:1, :, :3, :3], torch.zeros(0, dtype=torch.int64), None), 1.0, last=True)
    assert all(torch.equal(value, before[name]) for name, value in again.state_dict().items())


def test_a_refused_step_leaves_no_statistics():
    student = _student()
    engine = _engine(student, on_bad_step="skip")
    pixels, targets = torch.randn(2, 1, 5, 5), torch.tensor([0, 1])
    engine.accumulate(ImageBatch(pixels, targets, None), 1.0, last=True)
    engine.update(0.0, lambda norm: True)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    for bad in (float("nan"), 1.0):
        engine.accumulate(ImageBatch(pixels * bad, targets, None), 1.0, last=bad == 1.0)
    engine.update(0.0, lambda norm: False)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    engine.accumulate(ImageBatch(pixels, targets, None), 1.0, last=True)
    engine.update(0.0, lambda norm: True)
    assert int(student[1].num_batches_tracked) == 2
