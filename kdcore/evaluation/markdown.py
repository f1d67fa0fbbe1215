"""The report as Markdown."""

import html
import itertools
from collections.abc import Iterable
from typing import Any

__all__ = ["render"]

_CELL = 400
_OVER = {
    "completion": ", over the tokens of completions alone",
    "assistant": ", over the tokens of the assistant's turns alone",
}


def render(report: dict[str, Any], picture: str) -> str:
    """The text of report.md from the content of report.json; `picture` is the line that stands for the figure."""
    parts = [
        f"# {report['name']}",
        f"**{report['verdict']}**",
        picture,
        "## Held-out quality",
        f"Mean ± standard deviation over the seeds. Losses are in nats{_OVER.get(report.get('mask', 'all'), '')}.",
        _quality(report),
        *_made(report.get("synthesis")),
        "## Models",
        _models(report["models"]),
        "## Training",
        _training(report.get("training", {})),
        "## Labels",
        _labels(report.get("store")),
        "## Time",
        _stages(report["stages"]),
        "## Made by",
        _made_by(report.get("run")),
    ]
    return "\n\n".join(parts) + "\n"


def _made(generations: list[dict[str, Any]] | None) -> list[str]:
    """The section on samples that the teacher made; none without."""
    if not generations:
        return []
    parts = ["## Samples made by the teacher"]
    if "nearest_made" in generations[-1]:
        parts.append("![made images by class, beside real ones](samples.png)")
    names = [name for name in generations[-1] if name not in ("notes", "texts")]
    rows = [[str(each.get(name, "-")).strip("{}[]").replace("'", "") for name in names] for each in generations]
    parts.append(_table(["", *(row[0] for row in rows)], [list(row) for row in zip(names, *rows, strict=True)][1:]))
    notes = [f"- generation {each['generation']}: {note}" for each in generations for note in each["notes"]]
    return [*parts, *(["\n".join(notes)] if notes else []), *_texts(generations[-1].get("texts"))]


def _texts(texts: dict[str, list[str]] | None) -> list[str]:
    """Made texts beside real ones, their beginnings."""
    if not texts:
        return []
    pairs = itertools.zip_longest(texts["made"], texts["real"], fillvalue="")
    return [_table(("made", "real"), ([_cell(text) for text in pair] for pair in pairs))]


def _cell(text: str) -> str:
    """A text as it may stand in a table, shortened."""
    flat = " ".join(text.split()).replace("|", "\\|")
    return html.escape(flat if len(flat) <= _CELL else flat[:_CELL] + " ...", quote=False)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(header)
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _quality(report: dict[str, Any]) -> str:
    roles: dict[str, dict[str, Any]] = report["roles"]
    metrics = list(dict.fromkeys(metric for values in roles.values() for metric in values))
    rows = [[role, *(_spread(values.get(metric)) for metric in metrics)] for role, values in roles.items()]
    return _table(["", *metrics], rows) if rows else "Nothing was evaluated."


def _spread(value: dict[str, Any] | None) -> str:
    if value is None:
        return "-"
    if all(isinstance(item, int) for item in value["values"]):
        return f"{value['mean']:,.0f}"
    text = f"{value['mean']:.4f}"
    return f"{text} ± {value['std']:.4f}" if len(value["values"]) > 1 else text


def _models(models: dict[str, dict[str, Any]]) -> str:
    header = ["model", "parameters", "size", "loss", "latency p50", "p95"]
    rows = []
    for arm, model in models.items():
        times = model["latency"]
        size, loss = f"{model['bytes'] / 1e6:.2f} MB", f"{model['quality']['loss']:.4f}"
        rows.append([arm, f"{model['parameters']:,}", size, loss, f"{times['p50_ms']} ms", f"{times['p95_ms']} ms"])
    note = "Latency: one forward pass at batch size 1 on the machine that evaluated."
    return _table(header, rows) + f"\n\n{note}" if rows else "No model."


def _training(arms: dict[str, dict[str, float]]) -> str:
    rows = []
    for arm, found in arms.items():
        speed, waiting = found.get("tokens_per_second"), found.get("waiting_for_data")
        shown = ["-" if speed is None else f"{speed:,.0f}", "-" if waiting is None else f"{waiting:.1%}"]
        rows.append([arm, f"{found['step']:.0f}", f"{found['seconds']:.1f} s", *shown])
    note = "Tokens (images) a second: since the last line but one of its metrics. Waiting: for data, of the whole time."
    return _table(["arm", "steps", "time", "per second", "waiting"], rows) + f"\n\n{note}" if rows else "No training."


def _labels(store: dict[str, Any] | None) -> str:
    if store is None:
        return "No label store: trained on hard labels alone."
    columns: dict[str, float] = store["bytes_per_label"]
    rows = [[name, f"{size:.2f}"] for name, size in columns.items() if name != "total"]
    if "total" in columns:
        rows.append(["**whole files**", f"**{columns['total']:.2f}**"])
    codec = ", ".join(f"{key} {value}" for key, value in store["codec"].items())
    head = f"{store['labels']:,} labels of {store['rows']:,} samples; codec: {codec}."
    return f"{head}\n\n" + _table(["column", "bytes per label"], rows)


def _stages(stages: dict[str, dict[str, Any]]) -> str:
    rows = [[name, f"{stage['seconds']:.1f} s", str(stage["parts"])] for name, stage in stages.items()]
    rows.append(["**all**", f"**{sum(stage['seconds'] for stage in stages.values()):.1f} s**", ""])
    return _table(["stage", "time", "runs"], rows)


def _made_by(run: dict[str, Any] | None) -> str:
    if run is None:
        return "No record (run.json is missing)."
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    machine = run["machine"]
    lines = [
        f"- command: `{' '.join(run['command'])}`",
        f"- code: revision {run['revision'] or 'unknown'}; {versions}",
        f"- machine: {machine['platform']}, {machine['cpus']} CPUs, Python {machine['python']}",
    ]
    return "\n".join(lines)
