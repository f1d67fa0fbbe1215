"""Killed on two ranks, continued on one: the same samples in the same order, and the same student."""

from pathlib import Path

import pytest

from tests.benchmarks.resume import measure, prepare


@pytest.mark.parametrize("engine", ["torch", "zero2"])
def test_one_kill_and_another_number_of_ranks(tmp_path: Path, engine: str):
    if engine != "torch":
        pytest.importorskip("deepspeed")
    prepare(tmp_path)
    outcome = measure(tmp_path, engine, kills=1)
    assert outcome.kills == 1
    assert outcome.order_equal
    assert outcome.loss_difference < 1e-4
    assert outcome.weights_difference < 1e-2
    assert outcome.steps > 20
