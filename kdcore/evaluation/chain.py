"""The report of a chain: its stages side by side, as each one's own report has them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcore.runs import write_json

__all__ = ["write_chain_report"]

_ROLES = ("teacher", "student", "baseline")


def write_chain_report(folder: Path, name: str, runs: Sequence[Path]) -> Path:
    """Write chain.md and, last, chain.json in `folder` from the reports of finished `runs`; returns chain.md.

    Of each stage the held-out loss (nats) and accuracy of its teacher, students and baselines, means over the seeds.
    """
    stages = [_stage(run) for run in runs]
    page = folder / "chain.md"
    page.write_text(_page(name, stages), encoding="utf-8")
    write_json(folder / "chain.json", {"name": name, "stages": stages})
    return page


def _stage(run: Path) -> dict[str, Any]:
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    sizes = {arm.partition("-seed")[0]: model["parameters"] for arm, model in report["models"].items()}
    roles = {
        role: {
            "parameters": sizes[role],
            **{metric: report["roles"][role].get(metric) for metric in ("loss", "accuracy")},
        }
        for role in _ROLES
        if role in report["roles"]
    }
    return {"stage": run.name, "verdict": report["verdict"], "roles": roles}


def _page(name: str, stages: Sequence[dict[str, Any]]) -> str:
    lines = [
        f"# {name}",
        "",
        "Each stage's student teaches the next one. Held-out figures, means over the seeds ± their standard deviation.",
        "",
        "| stage | | parameters | loss | accuracy |",
        "|---|---|---|---|---|",
    ]
    for stage in stages:
        for role, found in stage["roles"].items():
            values = " | ".join(_value(found[metric]) for metric in ("loss", "accuracy"))
            lines.append(f"| {stage['stage']} | {role} | {found['parameters']:,} | {values} |")
    return "\n".join([*lines, "", *(f"- {stage['stage']}: {stage['verdict']}" for stage in stages), ""])


def _value(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{found['mean']:.4f}" + (f" ± {found['std']:.4f}" if len(found["values"]) > 1 else "")
