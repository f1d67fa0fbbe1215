"""A run whose micro-batches are made ahead is the run without: same numbers, errors in their place, no thread left."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from kdcore.errors import CorruptShard
from kdcore.training.arms import Arm
from kdcore.training.progress import Progress
from kdcore.training.run import run_arms
from kdcore.training.text_samples import TextSamples
from tests.support.training import text_recipe, write_corpus, write_labels

ARM = Arm("student-seed0", 0, uses_labels=True)
SETTINGS: dict[str, Any] = {"micro_batch_size": 2, "long_documents": "cut"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("prefetch")
    write_corpus(root / "corpus")
    write_labels(text_recipe(root, "labels", teacher=True))
    return root


def train(root: Path, name: str, prefetch: int, on_progress: Any = None) -> list[dict[str, float]]:
    recipe = text_recipe(root, name, teacher=True, prefetch=prefetch, **SETTINGS)
    run_arms(recipe, [ARM], on_progress or (lambda message: None))
    lines = (root / "runs" / name / "arms" / ARM.name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def numbers(lines: list[dict[str, float]]) -> list[tuple[float, ...]]:
    return [tuple(line[name] for name in ("step", "loss", "kl", "padding", "lr")) for line in lines]


@pytest.fixture(scope="module")
def plain(root) -> list[dict[str, float]]:
    return train(root, "plain", 0)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("kdcore")]


@pytest.mark.parametrize("prefetch", [1, 3])
def test_losses_are_the_same_to_the_last_bit(root, plain, prefetch):
    lines = train(root, f"prefetch{prefetch}", prefetch)
    assert numbers(lines) == numbers(plain)
    assert len(lines) == 6
    assert all(0 <= line["waiting_for_data"] <= 1 for line in [*lines, *plain])
    assert threads() == []


@pytest.mark.parametrize("prefetch", [0, 3])
def test_an_error_in_making_a_batch_stops_the_run_which_goes_on_when_it_is_gone(root, plain, prefetch, monkeypatch):
    made, make = [], TextSamples.batch

    def failing(samples: Any, *arguments: Any) -> Any:
        made.append(arguments)
        if len(made) == 11:
            raise CorruptShard("a shard was altered")
        return make(samples, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TextSamples, "batch", failing)
        with pytest.raises(CorruptShard, match="was altered"):
            train(root, f"failing{prefetch}", prefetch)
    assert threads() == []
    # Three micro-batches a step: the error was of the fourth step, and those before it were taken.
    metrics = root / "runs" / f"failing{prefetch}" / "arms" / ARM.name / "metrics.jsonl"
    assert [json.loads(line)["step"] for line in metrics.read_text().splitlines()] == [1, 2, 3]
    lines = train(root, f"failing{prefetch}", prefetch)
    assert numbers(lines) == numbers(plain)


def test_an_interrupt_ends_the_run_and_its_thread(root):
    def interrupting(message: Progress) -> None:
        if message.step == 3 and not message.note:
            raise KeyboardInterrupt  # as Ctrl-C does

    with pytest.raises(KeyboardInterrupt):
        train(root, "interrupted", 2, interrupting)
    assert threads() == []
