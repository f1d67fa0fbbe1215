"""`kd store info`: whose labels these are, what they weigh, and what their codec loses."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.common import command
from jobs.store.shown import StorePath, facts_table

if TYPE_CHECKING:
    from rich.table import Table

    from kdcore.store import LabelStore

__all__ = ["info"]


@command
def info(store: StorePath) -> None:
    """Whose labels these are, how many, what a label weighs, and what its codec loses."""
    from rich.console import Console

    from kdcore.facts import flatten
    from kdcore.store import open_store

    opened = open_store(store)
    console = Console()
    console.print(_summary(opened), _weights(opened))
    extra = dict(opened.manifest.extra)
    fidelity, made = extra.pop("fidelity", None), extra.pop("derived", None)
    if fidelity:
        console.print(_fidelity(fidelity))
    if extra:
        console.print(facts_table("measured while labelling", {k: str(v) for k, v in flatten(extra).items()}))
    if made:
        console.print(_made(made))


def _summary(store: "LabelStore") -> "Table":
    from kdcore.facts import flatten

    identity = store.identity
    teacher = identity.get("teacher") or {}
    numerics = {**(identity.get("numerics") or {})}
    facts = {
        "kind": store.kind,
        "teacher": teacher.get("path") or teacher.get("name") or teacher.get("type"),
        "teacher weights": teacher.get("weights"),
        "tokenizer": identity.get("tokenizer"),
        "numerics": ", ".join(f"{name} {value}" for name, value in numerics.items()),
        "codec": ", ".join(f"{name} {value}" for name, value in store.codec.spec().items()),
        "labelled tokens": identity.get("mask"),
        "chat template": identity.get("chat_template"),
        "views": ", ".join(f"{name} {value}" for name, value in flatten(identity.get("views")).items() if name),
        "input": identity.get("input"),
        "created": store.manifest.created,
        "shards": f"{len(store.manifest.shards):,}",
        "rows": f"{store.num_rows:,}",
        "samples": f"{int(store.occurrences().sum()):,}",
        "labels": f"{store.num_labels:,}",
        "bytes": f"{store.manifest.num_bytes:,}",
    }
    return facts_table(str(store.path), {name: str(value) for name, value in facts.items() if value})


def _weights(store: "LabelStore") -> "Table":
    return facts_table("bytes per label", {name: f"{size:.2f}" for name, size in store.bytes_per_label().items()})


def _fidelity(figures: Mapping[str, Any]) -> "Table":
    """Every figure with its meaning."""
    from rich.table import Table
    from rich.text import Text

    from kdcore.evaluation.fidelity_words import described

    title = f"fidelity: labels against the teacher's whole distribution, on {figures.get('labels', '?'):,} probe labels"
    table = Table("figure", "value", "what it says", title=Text(title), title_justify="left")
    for name, value, meaning in described(figures):
        table.add_row(Text(name), Text(value, justify="right"), Text(meaning, style="dim"))
    return table


def _made(made: Mapping[str, Any]) -> "Table":
    """From which stores this one was made; what they measured themselves stays in the manifest."""
    facts = {name: str(value) for name, value in made.items() if name != "sources"}
    for number, source in enumerate(made.get("sources", [])):
        counts = ", ".join(f"{source[name]:,} {name}" for name in ("rows", "labels", "shards"))
        facts[f"source {number}"] = f"manifest {source['manifest']}, created {source['created']}: {counts}"
    return facts_table("made from", facts)
