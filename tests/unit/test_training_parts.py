import json
import signal
from pathlib import Path

import pytest
import torch

from kdcore.config.training import OptimizerConfig, TrainingConfig
from kdcore.errors import ConfigError
from kdcore.training.arms import Arm, plan_arms, teacher_arm
from kdcore.training.metrics_log import MetricsLog, read_metrics
from kdcore.training.model import seed_step
from kdcore.training.preemption import termination_notice
from kdcore.training.progress import Progress
from kdcore.training.schedule import learning_rate, num_steps
from tests.support.training import image_recipe, text_recipe


def test_the_learning_rate_warms_up_and_decays():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=3, schedule="cosine", final_ratio=0.1)
    rates = [learning_rate(config, step, 103) for step in range(103)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[53] == pytest.approx(0.55)
    assert 0.1 < rates[-1] < 0.101
    linear = OptimizerConfig(learning_rate=1.0, schedule="linear")
    assert [learning_rate(linear, step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    stable = OptimizerConfig(learning_rate=1.0, warmup_steps=2, schedule="wsd", decay_fraction=0.4, final_ratio=0.5)
    assert [round(learning_rate(stable, step, 10), 3) for step in range(2, 10)] == [1, 1, 1, 1, 1, 0.875, 0.75, 0.625]
    assert learning_rate(stable, 1, 10) < 1
    constant = OptimizerConfig(learning_rate=1.0, schedule="constant")
    assert learning_rate(constant, 99, 100) == 1.0
    steps = OptimizerConfig(learning_rate=1.0, schedule="step", milestones=(0.5, 0.8), milestone_factor=0.5)
    rates = [learning_rate(steps, step, 10) for step in range(10)]
    assert rates == [1.0] * 5 + [0.5] * 3 + [0.25] * 2
    cifar = OptimizerConfig(learning_rate=1.0, schedule="step", milestones=(150 / 240, 180 / 240, 210 / 240))
    falls = [step for step in range(1, 240) if learning_rate(cifar, step, 240) < learning_rate(cifar, step - 1, 240)]
    assert falls == [150, 180, 210]


def test_epochs_are_counted_in_optimizer_steps():
    assert num_steps(TrainingConfig(epochs=2, batch_size=8), 17) == 5
    assert num_steps(TrainingConfig(epochs=0.1, batch_size=8), 17) == 1
    assert num_steps(TrainingConfig(steps=7), 17) == 7


def test_arms_of_a_recipe(tmp_path: Path):
    distil = text_recipe(tmp_path, "run", teacher=True, seeds=(0, 3))
    names = ["student-seed0", "baseline-seed0", "student-seed3", "baseline-seed3"]
    assert [arm.name for arm in plan_arms(distil)] == names
    assert [arm.uses_labels for arm in plan_arms(distil)] == [True, False, True, False]
    assert [arm.name for arm in plan_arms(text_recipe(tmp_path, "run", teacher=True, baseline=False))] == names[:1]
    alone = plan_arms(text_recipe(tmp_path, "run"))
    assert alone == [Arm("student-seed0", 0, uses_labels=False)]
    assert alone[0].export_directory(distil) == tmp_path / "runs" / "run" / "arms" / "student-seed0" / "student"
    images = image_recipe(tmp_path, "images")
    assert teacher_arm(images).export_directory(images) == tmp_path / "runs" / "images" / "teacher"
    with pytest.raises(ConfigError, match=r"teacher\.fit"):
        teacher_arm(distil)


def test_lines_after_the_resumed_step_are_dropped_and_a_torn_one_too(tmp_path: Path):
    with MetricsLog(tmp_path, 0) as log:
        for step in range(1, 5):
            log.write({"step": step, "seconds": step / 2})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 5, "sec')
    assert [line["step"] for line in read_metrics(path)] == [1, 2, 3, 4]
    with MetricsLog(tmp_path, 2) as log:
        assert log.seconds_before == 1.0
        log.write({"step": 3, "seconds": 9.0})
    assert [json.loads(line)["seconds"] for line in path.read_text().splitlines()] == [0.5, 1.0, 9.0]


def test_a_progress_line_has_rate_and_time_left():
    assert str(Progress("a", 5, 9, 1.5, 1234.0, 3725.0)) == "a: step 5/9, loss 1.5000, 1,234/s, 1:02:05 left"
    waited = Progress("a", 5, 9, 1.5, 1234.0, 3725.0, 0.034)
    assert str(waited) == "a: step 5/9, loss 1.5000, 1,234/s, 3% waiting for data, 1:02:05 left"
    assert str(Progress("a", 5, 9, note="resumed")) == "a: resumed"


def test_a_notice_that_is_given_again_ends_nothing():
    with termination_notice() as notice:
        for _ in range(3):
            signal.raise_signal(signal.SIGTERM)
        assert notice.given


@pytest.mark.parametrize("seed", [0, 5_000_000_000, 2**63])
def test_any_seed_seeds_a_step_and_a_small_one_as_it_always_did(seed):
    drawn = {}
    for step, rank in ((0, 0), (1, 0), (1, 1)):
        seed_step(seed, step, rank)
        drawn[step, rank] = float(torch.rand(()))
    assert len(set(drawn.values())) == 3
    seed_step(3, 10, 1)
    assert torch.initial_seed() == (3 * 1_000_003 + 10) * 4_099 + 1
