"""Bytes of a label against its error and against the angle of the batch's gradient, all codecs, a row a teacher."""

from pathlib import Path
from typing import Any

STYLES = {"threshold": ("C0", "o"), "sampled": ("C1", "s"), "topk": ("C2", "^"), "dense": ("C3", "D")}


def draw(details: dict[str, Any], path: Path) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    teachers = {name: found for name, found in details.items() if "curve" in found}
    figure, axes = pyplot.subplots(len(teachers), 2, figsize=(11, 4.2 * len(teachers)), squeeze=False)
    for row, (name, found) in zip(axes, teachers.items(), strict=True):
        for axis, figure_name, label in (
            (row[0], "squared_error", "squared error of a label (variance and bias)"),
            (row[1], "batch_angle_degrees", "angle of the batch's gradient, degrees"),
        ):
            _panel(axis, found, figure_name)
            axis.set(title=name, xlabel="bytes a label", ylabel=label, xscale="log", yscale="log")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _panel(axis: Any, found: dict[str, Any], figure_name: str) -> None:
    for codec, (colour, marker) in STYLES.items():
        points = sorted((p["bytes"], p[figure_name]) for p in found["curve"] if p["type"] == codec)
        points = [(size, value) for size, value in points if value > 0]
        if points:
            axis.plot(*zip(*points, strict=True), color=colour, marker=marker, label=codec)
    draws = [p for p in found["curve"] if p["type"] == "sampled"]
    literature = [(3 * p["entries"], p[figure_name]) for p in draws]
    axis.plot(*zip(*literature, strict=True), color="C1", marker="s", linestyle=":", label="random draws, 24 bits each")
