"""The report says what the measurements say, plainly."""

import json
from pathlib import Path
from typing import Any

import pytest

from kdcore.evaluation.report import read_curves, write_report
from kdcore.evaluation.summary import summarise


def model(loss: float, accuracy: float = 0.5) -> dict[str, Any]:
    quality = {"loss": loss, "accuracy": accuracy, "tokens": 1000}
    return {"quality": quality, "parameters": 1234567, "bytes": 4938268, "latency": {"p50_ms": 1.5, "p95_ms": 2.5}}


def arms(student: list[float], baseline: list[float]) -> dict[str, Any]:
    models = {"teacher": model(2.0, 0.7)}
    models |= {f"student-seed{seed}": model(loss) for seed, loss in enumerate(student)}
    return models | {f"baseline-seed{seed}": model(loss) for seed, loss in enumerate(baseline)}


def test_a_better_student_is_negative_and_said_to_win() -> None:
    found = summarise(arms([3.0, 3.2], [3.5, 3.5]))
    assert found["student_minus_baseline_loss"] == pytest.approx(-0.4)
    assert found["student_beats_baseline"] is True
    assert "beats the baseline" in found["verdict"]
    assert "0.4000" in found["verdict"]
    assert found["roles"]["student"]["loss"]["mean"] == pytest.approx(3.1)
    assert found["roles"]["student"]["loss"]["std"] == pytest.approx(0.02**0.5)


def test_a_worse_student_is_said_to_lose() -> None:
    found = summarise(arms([3.6, 3.4], [3.5, 3.2]))
    assert found["student_minus_baseline_loss"] == pytest.approx(0.15)
    assert found["student_beats_baseline"] is False
    assert "does NOT beat the baseline" in found["verdict"]
    assert "do not differ" not in found["verdict"]


def test_a_tie_within_the_spread_is_called_that() -> None:
    verdict = summarise(arms([3.6, 3.3], [3.5, 3.5]))["verdict"]
    assert "do not differ beyond the spread" in verdict
    assert "beats" not in verdict
    assert summarise(arms([3.5], [3.5]))["student_beats_baseline"] is False


def test_arms_are_compared_seed_by_seed() -> None:
    models = arms([3.0], [9.0, 3.5])
    del models["baseline-seed0"]
    assert summarise(models)["student_minus_baseline_loss"] is None


def test_without_a_baseline_nothing_is_claimed() -> None:
    found = summarise({"student-seed0": model(3.0)})
    assert found["student_minus_baseline_loss"] is None
    assert "No baseline" in found["verdict"]
    assert "No student" in summarise({"teacher": model(1.0)})["verdict"]


def begin(run_dir: Path) -> None:
    arm = run_dir / "arms" / "student-seed0"
    arm.mkdir(parents=True)
    lines = [
        {"step": step, "cross_entropy": 5.0 / step, "loss": 4.0, "seconds": step, "tokens_per_second": 9876.0}
        | {"waiting_for_data": 0.6 if step == 1 else 0.0}
        for step in (1, 2, 3)
    ]
    text = "\n".join(map(json.dumps, [*lines, {**lines[1], "loss": 1.0}]))
    (arm / "metrics.jsonl").write_text(text + '\n{"step": 4, "lo')
    (run_dir / "stages.json").write_text('{"labels": {"seconds": 12.5, "parts": 2, "finished": true}}')


RESULTS: dict[str, Any] = {
    "kind": "text",
    "models": arms([3.0, 3.2], [3.5, 3.5]),
    "store": {
        "rows": 60,
        "labels": 250000,
        "codec": {"type": "topk", "k": 8, "num_classes": 2048},
        "bytes_per_label": {"ids": 16.0, "log_probs": 16.25, "total": 39.5},
    },
}


def test_torn_and_repeated_metric_lines(tmp_path: Path) -> None:
    begin(tmp_path)
    curve = read_curves(tmp_path)["student-seed0"]
    assert [line["step"] for line in curve] == [1, 2, 3]
    assert curve[1]["loss"] == 1.0


def test_the_report_holds_everything(tmp_path: Path) -> None:
    begin(tmp_path)
    path = write_report(tmp_path, RESULTS)
    text = path.read_text()
    for part in ("beats the baseline", "3.1000 ± 0.1414", "ids | 16.00", "16.25", "39.50", "1,234,567", "4.94 MB"):
        assert part in text
    assert "| student-seed0 | 3 | 3.0 s | 9,876 | 20.0% |" in text
    for part in ("Losses are in nats.", "250,000 labels", "12.5 s", "1.5 ms", "report.png", "topk"):
        assert part in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["student_minus_baseline_loss"] == pytest.approx(-0.4)
    assert report["store"]["bytes_per_label"]["ids"] == 16.0
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(tmp_path)
    for module in ("matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    text = write_report(tmp_path, {**RESULTS, "store": None, "mask": "assistant"}).read_text()
    assert "in nats, over the tokens of the assistant's turns alone." in text
    assert "pip install 'kdcore[report]'" in text
    assert "hard labels alone" in text
    assert not (tmp_path / "report.png").exists()
