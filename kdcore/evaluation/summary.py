"""What a run's measurements say: mean and spread over the seeds, and the student against its baseline."""

import statistics
from typing import Any

__all__ = ["ROLES", "role_of", "summarise"]

ROLES = ("teacher", "student", "baseline")
"""In the order of a report's columns."""


def role_of(arm: str) -> str:
    """`student-seed0` is a `student`."""
    return arm.partition("-seed")[0]


def summarise(models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """From {arm: {"quality": {metric: value}}}: mean and standard deviation by role, and the comparison.

    `student_minus_baseline_loss` is negative where the student is better; both are None without a baseline.
    """
    roles: dict[str, dict[str, dict[str, Any]]] = {}
    for role in ROLES:
        qualities = [model["quality"] for arm, model in models.items() if role_of(arm) == role]
        if qualities:
            roles[role] = {metric: spread([quality[metric] for quality in qualities]) for metric in qualities[0]}
    return {"roles": roles, **_against_baseline(models)}


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (0 for a single value) and the values themselves."""
    std = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": statistics.fmean(values), "std": std, "values": values}


def _against_baseline(models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Student minus baseline, seed by seed: the same seed means the same start and the same order of data."""
    pairs = []
    for arm, model in models.items():
        other = models.get(arm.replace("student-", "baseline-", 1))
        if role_of(arm) == "student" and other is not None:
            pairs.append((model["quality"], other["quality"]))
    if not pairs:
        return {"student_minus_baseline_loss": None, "student_beats_baseline": None, "verdict": _no_baseline(models)}
    differences = [student["loss"] - baseline["loss"] for student, baseline in pairs]
    loss = spread(differences)
    better = loss["mean"] < 0
    return {
        "student_minus_baseline_loss": loss["mean"],
        "student_minus_baseline_loss_std": loss["std"],
        "student_minus_baseline_accuracy": statistics.fmean(a["accuracy"] - b["accuracy"] for a, b in pairs),
        "student_beats_baseline": better,
        "verdict": _verdict(differences, loss, better),
    }


def _no_baseline(models: dict[str, dict[str, Any]]) -> str:
    if not any(role_of(arm) == "student" for arm in models):
        return "No student was trained."
    return "No baseline was trained (training.baseline: false): what the teacher's labels bring is not measured."


def _verdict(differences: list[float], loss: dict[str, Any], better: bool) -> str:
    won = sum(difference < 0 for difference in differences)
    gap, std, seeds = abs(loss["mean"]), loss["std"], len(differences)
    spread_text = f" ± {std:.4f}" if seeds > 1 else ""
    count = f"lower in {won} of {seeds} seeds" if seeds > 1 else "one seed"
    direction = "lower" if better else "higher"
    measured = f"held-out loss is {direction} by {gap:.4f}{spread_text} nats ({count})"
    if seeds > 1 and gap <= std:
        return f"Student and baseline do not differ beyond the spread of the seeds: the student's {measured}."
    return f"The student {'beats' if better else 'does NOT beat'} the baseline: its {measured}."
