"""Which steps are not taken."""

import json
import math

import pytest

from kdcore.config.training import TrainingConfig
from kdcore.errors import TrainingError
from kdcore.training.bad_steps import BadSteps


def bad_steps(**settings) -> BadSteps:
    return BadSteps("arm", TrainingConfig.model_validate({"steps": 9, **settings}))


def test_a_good_step_has_nothing_said_of_it():
    watch = bad_steps()
    assert watch.judge(0, 2.5, 1.0) is None
    assert watch.judge(1, 1e9, 1e9) is None  # without a factor nothing finite is a spike
    assert watch.skipped == []


@pytest.mark.parametrize(
    ("loss", "norm", "words"),
    [(math.nan, 1.0, "its loss is nan"), (math.inf, 1.0, "its loss is inf"), (2.5, math.inf, "norm is inf")],
)
def test_what_is_not_finite_stops_the_run_with_its_step_and_the_settings(loss, norm, words):
    with pytest.raises(TrainingError, match=words) as caught:
        bad_steps().judge(6, loss, norm)
    for word in ("step 7", "'arm'", "training.optimizer.learning_rate (0.001)", "training.on_bad_step: skip"):
        assert word in str(caught.value)


def test_skipped_steps_are_counted_and_bounded():
    watch = bad_steps(on_bad_step="skip", max_skipped_steps=2)
    assert "nan" in (watch.judge(3, math.nan, 1.0) or "")
    assert "nan" in (watch.judge(4, 1.0, math.nan) or "")
    assert [entry["step"] for entry in watch.skipped] == [4, 5]
    with pytest.raises(TrainingError, match=r"training\.max_skipped_steps \(2\)"):
        watch.judge(5, math.nan, 1.0)


def test_a_spike_is_seen_against_the_median_of_good_steps_once_there_are_some():
    watch = bad_steps(on_bad_step="skip", spike_factor=2.0)
    assert [watch.judge(step, 10.0 if step == 2 else 1.0, 1.0) for step in range(10)] == [None] * 10
    assert watch.judge(10, 1.99, 1.0) is None
    assert "2.01 times the median 1 " in (watch.judge(11, 2.01, 1.0) or "")
    assert watch.judge(12, 2.0, 1.0) is None


def test_a_resumed_run_judges_as_an_undisturbed_one():
    whole, before = (bad_steps(on_bad_step="skip", spike_factor=1.5) for _ in range(2))
    losses = [3.0 - 0.02 * step + (4.0 if step in (17, 70) else 0.0) for step in range(80)]
    wanted = [whole.judge(step, loss, 1.0) for step, loss in enumerate(losses)]
    for step in range(40):
        before.judge(step, losses[step], 1.0)
    after = bad_steps(on_bad_step="skip", spike_factor=1.5)
    after.restore(json.loads(json.dumps(before.state())))
    assert [after.judge(step, losses[step], 1.0) for step in range(40, 80)] == wanted[40:]
    assert after.skipped == whole.skipped
    assert [entry["step"] for entry in whole.skipped] == [18, 71]


def test_of_losses_below_zero_none_is_a_spike():
    watch = bad_steps(on_bad_step="skip", spike_factor=3.0)
    assert [watch.judge(step, -0.1, 1.0) for step in range(20)] == [None] * 20
