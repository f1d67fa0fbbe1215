"""The report of a run: report.md to read, report.png to look at, report.json for programs (written last)."""

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from kdcore.errors import MissingExtra
from kdcore.evaluation.figure import draw
from kdcore.evaluation.markdown import render
from kdcore.evaluation.summary import summarise
from kdcore.runs import read_stages, write_json

__all__ = ["read_curves", "write_report"]


def write_report(run_dir: Path, results: dict[str, Any]) -> Path:
    """Write report.md, report.png and, last, report.json from the measurements of `evaluate_run`; returns report.md.

    Without matplotlib there is no picture, and the report says so with the line that installs it.
    """
    curves = read_curves(run_dir)
    report = {
        "name": run_dir.name,
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        **summarise(results["models"]),
        **results,
        "training": {arm: _trained(lines) for arm, lines in curves.items() if lines},
        "stages": read_stages(run_dir),
        "run": _read_json(run_dir / "run.json"),
    }
    picture = "![loss curves and held-out quality](report.png)"
    try:
        draw(run_dir / "report.png", curves, report)
    except MissingExtra as error:
        picture = f"No picture. {error}"
    markdown = run_dir / "report.md"
    markdown.write_text(render(report, picture), encoding="utf-8")
    write_json(run_dir / "report.json", report)
    return markdown


def read_curves(run_dir: Path) -> dict[str, list[dict[str, float]]]:
    """Metric lines of every arm of the run, by step; of a step logged twice (before and after a kill) the later."""
    curves: dict[str, list[dict[str, float]]] = {}
    for file in sorted([*run_dir.glob("arms/*/metrics.jsonl"), *run_dir.glob("teacher/metrics.jsonl")]):
        by_step: dict[float, dict[str, float]] = {}
        for text in file.read_text(encoding="utf-8").splitlines():
            line = _parse(text)
            if "step" in line:
                by_step[line["step"]] = line
        curves[file.parent.name] = [by_step[step] for step in sorted(by_step)]
    return curves


def _parse(text: str) -> dict[str, float]:
    """One line; the torn last line of a killed run is nothing."""
    try:
        line = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return line if isinstance(line, dict) else {}


def _trained(lines: list[dict[str, float]]) -> dict[str, float]:
    """The last line's numbers, and the share of the whole training's time that was spent waiting for data."""
    kept = ("step", "loss", "seconds", "tokens_per_second")
    found = {name: lines[-1][name] for name in kept if name in lines[-1]}
    seconds = [after["seconds"] - before["seconds"] for before, after in pairwise([{"seconds": 0.0}, *lines])]
    if sum(seconds) > 0 and all("waiting_for_data" in line for line in lines):
        waited = sum(line["waiting_for_data"] * part for line, part in zip(lines, seconds, strict=True))
        found["waiting_for_data"] = waited / sum(seconds)
    return found


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
