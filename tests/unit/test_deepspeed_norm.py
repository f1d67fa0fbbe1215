"""That a step of ZeRO is taken only on our word, with what of DeepSpeed's optimizer matters here."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from kdcore.errors import ConfigError
from kdcore.training.engines.deepspeed_norm import gate


class Zero:
    """As stages 1 and 2 in bfloat16: first overflows are looked for, then comes the norm, -1 if it is not finite."""

    def __init__(self, gradient: float, norms: bool = True) -> None:
        self.gradient, self.norms, self.overflow, self.taken = torch.tensor(gradient), norms, False, False
        self.averaged_gradients = {0: [self.gradient]}

    def check_overflow(self, partition_gradients: bool = True) -> None:
        assert partition_gradients
        self.overflow = not bool(torch.isfinite(self.gradient))

    def scaled_global_norm(self) -> Tensor:
        return self.gradient if bool(torch.isfinite(self.gradient)) else torch.tensor(-1.0)

    def step(self) -> None:
        self.overflow = False
        self.check_overflow(partition_gradients=True)
        if self.norms and not self.overflow:
            self.overflow = not bool(torch.isfinite(self.scaled_global_norm()))
        self.taken = not self.overflow


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize(
    ("gradient", "told", "word"), [(2.0, 2.0, True), (2.0, 2.0, False), (float("nan"), float("inf"), False)]
)
def test_every_step_is_asked_for_also_where_an_overflow_would_leave_it_out(stage, gradient, told, word):
    optimizer, asked = Zero(gradient), []
    with gate(SimpleNamespace(optimizer=optimizer), stage, lambda norm: (asked.append(float(norm)), word)[1]):
        optimizer.step()
    assert asked == [told]
    assert optimizer.taken is word
    assert word or optimizer.averaged_gradients == {0: None}


def test_a_step_without_a_question_is_an_error():
    optimizer = Zero(2.0, norms=False)
    asking = gate(SimpleNamespace(optimizer=optimizer), 1, lambda norm: True)
    with pytest.raises(ConfigError, match=r"training\.engine\.extra"), asking:
        optimizer.step()
