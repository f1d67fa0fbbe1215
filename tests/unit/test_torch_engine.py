"""The plain engine's files, and the word on a step."""

import os
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from kdcore.config.training import TrainingConfig
from kdcore.errors import CheckpointError
from kdcore.training.batches import ImageBatch
from kdcore.training.engines.state_file import save_state
from kdcore.training.engines.torch_engine import TorchEngine
from kdcore.training.model import DistillModel
from kdcore.training.ranks import Ranks

FACTS = {"engine": "torch"}


def engine(width: int = 2, **optimizer) -> TorchEngine:
    torch.manual_seed(0)
    config = TrainingConfig.model_validate({"steps": 1, "gradient_clip": 0.5, "optimizer": optimizer})
    return TorchEngine(DistillModel(nn.Linear(3, width), config, False), config, Ranks(0, 1, torch.device("cpu")))


def step(engine: TorchEngine, accept) -> None:
    batch = ImageBatch(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1]), None)
    engine.accumulate(batch, 4.0, last=True)
    engine.update(0.1, accept)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_accept_is_told_the_norm_before_clipping_and_its_word_counts():
    norms: list[float] = []
    student = engine()
    before = student.student_state()
    before = {key: value.clone() for key, value in before.items()}
    step(student, lambda norm: bool(norms.append(float(norm))))
    assert same(student.student_state(), before)
    step(student, lambda norm: not norms.append(float(norm)))  # the refused gradient is gone
    assert not same(student.student_state(), before)
    assert norms[0] == norms[1] > 2 * 0.5


def test_a_checkpoint_of_another_engine_or_shape_is_refused(tmp_path: Path):
    engine().save(tmp_path)
    with pytest.raises(CheckpointError, match=r"written by the deepspeed engine.*training\.engine\.type"):
        engine().load(tmp_path, {"engine": "deepspeed"})
    with pytest.raises(CheckpointError, match="another model"):
        engine(width=5).load(tmp_path, FACTS)
    engine().load(tmp_path, FACTS)


class Payload:
    def __reduce__(self):
        return os.mkdir, (str(self.where),)

    def __init__(self, where: Path) -> None:
        self.where = where


def test_a_foreign_pickle_is_not_run(tmp_path: Path):
    torch.save({"model": Payload(tmp_path / "run")}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        engine().load(tmp_path, FACTS)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_told_with_its_number(tmp_path: Path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save_state({"weights": torch.zeros(10_000)}, tmp_path / "state.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    save_state({"weights": torch.ones(10_000)}, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["weights"].sum() == 10_000


def test_a_checkpoint_brings_no_settings_of_its_own(tmp_path: Path):
    engine(weight_decay=0.0).save(tmp_path)
    other = engine(weight_decay=0.1, betas=(0.8, 0.9), epsilon=1e-6)
    other.load(tmp_path, FACTS)
    found = [(group["weight_decay"], group["betas"], group["eps"]) for group in other._optimizer.param_groups]
    assert found == [(0.1, (0.8, 0.9), 1e-6), (0.0, (0.8, 0.9), 1e-6)]
    engine(type="sgd").save(tmp_path)
    other = engine(type="sgd", momentum=0.5, nesterov=True, weight_decay=0.1)
    other.load(tmp_path, {"engine": "torch", "optimizer": "sgd"})
    found = [(group["weight_decay"], group["momentum"], group["nesterov"]) for group in other._optimizer.param_groups]
    assert found == [(0.1, 0.5, True), (0.0, 0.5, True)]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_textbook_s(nesterov: bool, tmp_path: Path):
    """Momentum m = 0.9 m + g from the clipped and decayed gradient; also over a checkpoint between the steps."""
    student = engine(type="sgd", nesterov=nesterov, weight_decay=0.2)
    weight = student.student_state()["weight"].clone()
    momentum = torch.zeros_like(weight)
    for _ in range(3):
        linear = nn.Linear(3, 2)
        linear.load_state_dict({**student.student_state(), "weight": weight})
        loss = nn.functional.cross_entropy(linear(torch.tensor([[1.0, 2.0, 3.0]])), torch.tensor([1]))
        (4 * loss).backward()
        nn.utils.clip_grad_norm_(linear.parameters(), 0.5)
        assert linear.weight.grad is not None
        gradient = linear.weight.grad + 0.2 * weight
        momentum = 0.9 * momentum + gradient
        weight = weight - 0.1 * (gradient + 0.9 * momentum if nesterov else momentum)
        step(student, lambda norm: True)
        torch.testing.assert_close(student.student_state()["weight"], weight)
        student.save(tmp_path)
        student = engine(type="sgd", nesterov=nesterov, weight_decay=0.2)
        student.load(tmp_path, student.facts())


def test_the_state_of_another_optimizer_is_refused(tmp_path: Path):
    engine().save(tmp_path)
    for facts in (FACTS, {**FACTS, "optimizer": "adamw"}):  # before there was SGD, none was noted
        with pytest.raises(CheckpointError, match=r"has the state of adamw, and training\.optimizer\.type is 'sgd'"):
            engine(type="sgd").load(tmp_path, facts)
