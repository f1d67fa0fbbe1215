"""The report's picture: loss curves of every arm, and held-out quality with its spread."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdcore.errors import missing_extra
from kdcore.evaluation.summary import ROLES, role_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_COLOURS = {"teacher": "#555555", "student": "#1f77b4", "baseline": "#d95f02"}


def draw(path: Path, curves: dict[str, list[dict[str, float]]], summary: dict[str, Any]) -> None:
    """Write a PNG. `curves`: metric lines by arm; `summary`: from `summarise`. Raises MissingExtra."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "report", "The report's picture") from error
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=(2, 1, 1))
    _draw_curves(left, curves)
    _draw_bars(middle, summary, "loss", "held-out loss (nats)")
    _draw_bars(right, summary, "accuracy", "held-out accuracy")
    figure.savefig(path, dpi=150)


def _draw_curves(axes: "Axes", curves: dict[str, list[dict[str, float]]]) -> None:
    """The hard cross-entropy, which all arms share; the KL of a student alone would compare with nothing."""
    named: set[str] = set()
    for arm, lines in sorted(curves.items()):
        role = role_of(arm)
        points = [(line["step"], line["cross_entropy"]) for line in lines if line.get("cross_entropy") is not None]
        if points:
            label = None if role in named else role
            axes.plot(*zip(*points, strict=True), color=_COLOURS.get(role), alpha=0.7, linewidth=1, label=label)
            named.add(role)
    axes.set(xlabel="step", ylabel="training cross-entropy (nats)")
    if named:
        axes.legend(frameon=False)


def _draw_bars(axes: "Axes", summary: dict[str, Any], metric: str, title: str) -> None:
    shown = [role for role in ROLES if metric in summary["roles"].get(role, {})]
    values = [summary["roles"][role][metric] for role in shown]
    means, stds = [value["mean"] for value in values], [value["std"] for value in values]
    axes.bar(shown, means, yerr=stds, capsize=4, color=[_COLOURS[role] for role in shown])
    axes.set(title=title)
    if means:
        low, high = min(means), max(means)
        margin = 0.5 * (high - low) + max(stds) or 0.05 * abs(high) or 1.0
        axes.set_ylim(max(0.0, low - 2 * margin), high + margin)
