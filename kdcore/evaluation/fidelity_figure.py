"""A label store in one picture: bytes, entries, weights by rank, surprise, and what the codec loses."""

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcore.errors import missing_extra
from kdcore.evaluation.fidelity_words import MEANINGS, number
from kdcore.evaluation.store_profile import StoreProfile
from kdcore.store import LabelStore

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_store"]

_BLUE, _ORANGE, _GREY, _PALE = "#1f77b4", "#d95f02", "#777777", "#c6dbef"
_CODEC, _TEXT = _BLUE, "#9ecae1"
_OF_TEXT = {"tokens": "tokens", "token_log_probs": "main path", "key": "keys", "name": "names"}
_OF_TEXT |= {"occurrences": "occurrences", "target": "targets", "label_spans": "spans"}


def draw_store(store: LabelStore, profile: StoreProfile) -> bytes:
    """A PNG of a store and of what was sampled of it. Raises MissingExtra without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "report", "A picture of a store") from error
    figure = Figure(figsize=(14.5, 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(store), fontsize=11, x=0.01, ha="left")
    grid = figure.add_gridspec(2, 12, hspace=0.08, wspace=0.06)
    spans = ((0, 0, 4), (0, 4, 8), (0, 8, 12), (1, 0, 4), (1, 4, 7), (1, 7, 12))
    axes = [figure.add_subplot(grid[row, start:stop]) for row, start, stop in spans]
    _draw_bytes(axes[0], store)
    if profile.features is None:
        _draw_entries(axes[1], profile)
        _draw_ranks(axes[2], profile)
        _draw_surprise(axes[3], profile)
    else:
        _draw_features(axes[1], axes[2], axes[3], profile.features)
    figures = store.manifest.extra.get("fidelity") or {}
    _draw_gradient(axes[4], figures)
    _draw_table(axes[5], figures)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120, format="png")
    return picture.getvalue()


def _title(store: LabelStore) -> str:
    spec = store.codec.spec()
    shown = ("draws", "k", "bits", "num_classes")
    codec = ", ".join([str(spec["type"]), *(f"{name} {spec[name]:,}" for name in shown if name in spec)])
    teacher = store.identity.get("teacher") or {}
    name = teacher.get("path") or teacher.get("name") or teacher.get("type") or "unknown teacher"
    total = store.manifest.num_bytes / max(1, store.num_labels)
    return (
        f"{store.path}\n{codec}  ·  teacher {name}  ·  {store.num_rows:,} rows, {store.num_labels:,} labels, "
        f"{store.manifest.num_bytes:,} bytes ({total:.1f} a label)"
    )


def _head(axes: "Axes", title: str, note: str = "") -> None:
    """A title, and a quieter line below it."""
    axes.set_title(title, fontsize=10.5, fontweight="bold", loc="left", pad=20)
    axes.text(0, 1.02, note, fontsize=8.5, color=_GREY, transform=axes.transAxes, va="bottom")


def _empty(axes: "Axes", title: str, text: str) -> None:
    _head(axes, title)
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", color=_GREY, transform=axes.transAxes, wrap=True)


def _draw_bytes(axes: "Axes", store: LabelStore) -> None:
    sizes = store.bytes_per_label()
    total = sizes.pop("total")
    overhead = max(0.0, total - sum(sizes.values()))
    own = {entry.name for entry in store.codec.fields()}
    bars = sorted(((_OF_TEXT.get(name, name), size, name in own) for name, size in sizes.items()), key=lambda b: b[1])
    bars.insert(0, ("file headers", overhead, False))
    names, values, ours = zip(*bars, strict=True)
    axes.barh(names, values, color=[_CODEC if mine else _TEXT for mine in ours])
    for place, value in enumerate(values):
        axes.text(value + 0.01 * max(values), place, f"{value:.2f}", va="center", fontsize=8)
    axes.set(xlabel="bytes a label", xlim=(0, 1.18 * max(values)))
    ours_total = sum(value for value, mine in zip(values, ours, strict=True) if mine)
    _head(axes, "What a label weighs", f"{total:.2f} bytes, of which {ours_total:.2f} are the codec's (dark)")
    _tidy(axes)


def _draw_entries(axes: "Axes", profile: StoreProfile) -> None:
    """Entries where their number differs, else how many classes hold 90 % of the weight."""
    assert profile.weights is not None
    if profile.entries is not None:
        counts, title, what = profile.entries, "Entries of a label", "classes with a weight"
    else:
        covered = np.cumsum(profile.weights, axis=1) >= 0.9
        counts = np.where(covered.any(1), covered.argmax(1) + 1, profile.weights.shape[1] + 1)
        title = "Classes that hold 90 % of a label"
        what = "classes" if covered.any(1).all() else "classes (rightmost: more than are kept)"
    if not len(counts):
        _empty(axes, title, "no labels")
        return
    high = int(counts.max())
    edges = np.arange(0.5, high + 1.5, max(1, -(-high // 60)))
    edges = np.append(edges, edges[-1] + (edges[1] - edges[0] if len(edges) > 1 else 1))
    axes.hist(counts, bins=edges.tolist(), weights=np.full(len(counts), 100 / len(counts)), color=_BLUE)
    axes.axvline(counts.mean(), color=_ORANGE, linewidth=1.2)
    axes.set(xlabel=what, ylabel="% of labels")
    _head(axes, title, f"{counts.mean():.1f} in the mean (line), median {np.median(counts):.0f}, at most {high}")
    _tidy(axes)


def _draw_ranks(axes: "Axes", profile: StoreProfile) -> None:
    weights = profile.weights
    if weights is None or not len(weights):
        _empty(axes, "Weight by rank", "no labels")
        return
    ranks = np.arange(1, weights.shape[1] + 1)
    low, median, high = np.percentile(weights, (10, 50, 90), axis=0)
    mean = weights.mean(0)
    floor = max(mean[mean > 0].min(initial=1.0) / 3, 1e-8)
    axes.fill_between(ranks, np.maximum(low, floor), np.maximum(high, floor), color=_PALE, label="10 to 90 % of labels")
    axes.plot(ranks, np.where(median > floor, median, np.nan), color=_BLUE, linewidth=1, label="median")
    axes.plot(ranks, np.where(mean > 0, mean, np.nan), color=_ORANGE, linewidth=1.6, label="mean")
    axes.plot(ranks, mean.cumsum(), color=_GREY, linestyle="--", linewidth=1.2, label="mean, all ranks up to here")
    axes.set(xscale="log", yscale="log", xlabel="rank of the class in its label", ylabel="weight", ylim=(floor, 1.5))
    _plain_ticks(axes, ranks[-1])
    _head(axes, "Weight by rank", f"{profile.labels:,} labels sampled; the first rank weighs {mean[0]:.2f} in the mean")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    _tidy(axes)


def _draw_surprise(axes: "Axes", profile: StoreProfile) -> None:
    """How likely the teacher finds the actual token; of an image, the weight of its best class."""
    values = profile.log_probs
    values = values[np.isfinite(values)] if values is not None else np.empty(0)
    if len(values):
        _draw_shares(axes, -values, float(np.percentile(-values, 99.5)) or 1.0, "-log p(next token), nats")
        note = f"{-values.mean():.2f} nats in the mean (line); the last bar has all above"
        _head(axes, "The teacher's surprise at the actual token", note)
    else:
        best = profile.weights[:, 0] if profile.weights is not None and len(profile.weights) else np.zeros(1)
        _draw_shares(axes, best, 1.0, "weight of the best class")
        _head(axes, "How sure the teacher is", f"{best.mean():.2f} in the mean (line)")


def _draw_shares(axes: "Axes", values: np.ndarray, top: float, what: str) -> None:
    share = np.full(len(values), 100 / len(values))
    axes.hist(np.minimum(values, top), bins=np.linspace(0, top, 50).tolist(), weights=share, color=_BLUE)
    axes.axvline(values.mean(), color=_ORANGE, linewidth=1.2)
    axes.set(xlabel=what, ylabel="% of labels", xlim=(0, top))
    _tidy(axes)


def _draw_features(values: "Axes", channels: "Axes", norms: "Axes", features: np.ndarray) -> None:
    flat = features.ravel()
    limit = float(np.percentile(np.abs(flat), 99.9)) if flat.size else 1.0
    share = np.full(flat.size, 100 / max(1, flat.size))
    values.hist(np.clip(flat, -limit, limit), bins=60, weights=share, color=_BLUE)
    values.set(xlabel="value", ylabel="% of values")
    _head(values, "Values of the features", "outermost bars: all beyond")
    size = np.sqrt((features**2).mean(0)) if len(features) else np.zeros(features.shape[1])
    channels.plot(np.arange(1, len(size) + 1), np.sort(size)[::-1], color=_ORANGE)
    top = 1.08 * float(size.max(initial=0)) or 1.0
    channels.set(xlabel="channels, the largest first", ylabel="root mean square", ylim=(0, top))
    _head(channels, "Size of the channels", f"{len(size):,} channels, {len(features):,} labels sampled")
    norms.hist(np.linalg.norm(features, axis=1), bins=50, color=_BLUE)
    norms.set(xlabel="norm of a label's features", ylabel="labels")
    _head(norms, "Norm of a label's features")
    for axes in (values, channels, norms):
        _tidy(axes)


def _draw_gradient(axes: "Axes", figures: dict[str, Any]) -> None:
    """Arms from the origin: the exact gradient points right, that of one label and of the whole probe beside it."""
    title = "The student's gradient"
    if figures.get("norm_ratio") is None:
        _empty(axes, title, "not measured for this store")
        return
    arms = [("one label", figures["angle_degrees"], figures["norm_ratio"], _BLUE)]
    arms += [("whole probe", figures["batch_angle_degrees"], figures["batch_norm_ratio"], _ORANGE)]
    arms += [("exact", 0.0, 1.0, _GREY)]
    longest = 1.0
    for name, angle, ratio, colour in arms:
        length = min(ratio, 2.5)
        end = length * np.cos(np.radians(angle)), length * np.sin(np.radians(angle))
        axes.annotate(
            "", end, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2, "shrinkA": 0, "shrinkB": 0}
        )
        text = name if name == "exact" else f"{name}: {angle:.1f}°, length {number(ratio)}"
        axes.plot([], [], color=colour, linewidth=2, label=text)
        longest = max(longest, length)
    axes.set(xlim=(-0.03, 1.1 * longest), ylim=(-0.08 * longest, 1.1 * longest), aspect="equal")
    axes.set(xlabel="along the exact gradient", ylabel="across it")
    _head(axes, title, "against the exact one, whose length is 1")
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    _tidy(axes)


def _draw_table(axes: "Axes", figures: dict[str, Any]) -> None:
    if not figures:
        _empty(axes, "What the codec loses", "not measured for this store")
        return
    _head(
        axes,
        "What the codec loses",
        f"against the teacher's whole distribution, on {figures.get('labels', 0):,} probe labels",
    )
    axes.axis("off")
    shown = [name for name in MEANINGS if name in figures and name != "labels"]
    for place, name in enumerate(shown):
        y = 0.95 - place * 0.09
        place_of = {"transform": axes.transAxes, "va": "top", "in_layout": False}
        axes.text(0.0, y, name.replace("_", " "), fontsize=9, **place_of)
        axes.text(0.335, y, number(figures[name]), fontsize=9, ha="right", **place_of)
        axes.text(0.36, y + 0.004, MEANINGS[name], fontsize=8, color=_GREY, **place_of)


def _plain_ticks(axes: "Axes", last: int) -> None:
    """Whole numbers on a logarithmic axis."""
    ticks = [tick for power in range(5) for tick in (10**power, 2 * 10**power, 5 * 10**power) if tick <= last]
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _tidy(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
