"""Attention transfer beside a loop in float64, and beside torchdistill's."""

import torch
from torchdistill.losses.mid_level import ATLoss

from kdcore.losses.feature.attention_transfer import attention_transfer


def _maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_equals_a_loop_over_samples():
    student, teacher = _maps(3, 4, 5, 5), _maps(3, 6, 5, 5)
    total = 0.0
    for ours, theirs in zip(student.double(), teacher.double(), strict=True):
        maps = [(one**2).sum(0).reshape(-1) for one in (ours, theirs)]
        q_s, q_t = (one / (one**2).sum().sqrt() for one in maps)
        total += float(((q_s - q_t) ** 2).mean()) / 3
    assert abs(float(attention_transfer(student, teacher)) - total) < 1e-7


def test_the_larger_map_is_averaged_down():
    student, teacher = _maps(2, 3, 4, 4), _maps(2, 3, 8, 8)
    small = torch.nn.functional.avg_pool2d(teacher, 2)
    assert torch.equal(attention_transfer(student, teacher), attention_transfer(student, small))


def test_equals_torchdistill():
    student, teacher = _maps(3, 4, 5, 5), _maps(3, 6, 5, 5)
    outputs = [{"layer": {"output": features}} for features in (student, teacher)]
    pair = {"pair": {"student": {"path": "layer", "io": "output"}, "teacher": {"path": "layer", "io": "output"}}}
    theirs = ATLoss(pair, mode="code")(*outputs)
    torch.testing.assert_close(attention_transfer(student, teacher), theirs, atol=1e-6, rtol=1e-5)
