"""`kd store sample`: rows with their labels decoded, tokens as text."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.common import command
from jobs.store.shown import StorePath

if TYPE_CHECKING:
    from rich.table import Table

    from kdcore.store import LabelStore

__all__ = ["sample"]


@command
def sample(
    store: StorePath,
    rows: Annotated[int, typer.Option("--rows", min=1, help="How many rows, spread over the store.")] = 2,
    row: Annotated[int | None, typer.Option("--row", min=0, help="This row.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="The row of this key, 32 hexadecimal digits.")] = None,
    labels: Annotated[int, typer.Option("--labels", min=1, help="Labels of each row.")] = 12,
    start: Annotated[int, typer.Option("--start", min=0, help="The first of these labels.")] = 0,
    top: Annotated[int, typer.Option("--top", min=1, help="Classes of each label.")] = 5,
    tokenizer: Annotated[
        str | None, typer.Option("--tokenizer", help="The teacher's, a directory or hub name, to show tokens as text.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a row, one row a line.")] = False,
) -> None:
    """Show rows with their labels decoded: the token, the teacher's log-probability of it, and the top classes."""
    import json

    from kdcore.evaluation.store_sample import sample_row
    from kdcore.store import open_store

    opened = open_store(store)
    loaded = None if tokenizer is None else _tokenizer(opened, tokenizer)
    found = (sample_row(opened, n, labels, top, start, loaded) for n in _chosen(opened, rows, row, key))
    for value in found:
        if as_json:
            print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)
        else:
            _show(value, loaded is not None)


def _tokenizer(store: "LabelStore", path: str) -> Any:
    from kdcore.evaluation.store_sample import check_store_tokenizer
    from kdcore.models.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(path)
    check_store_tokenizer(store, tokenizer)
    return tokenizer


def _chosen(store: "LabelStore", rows: int, row: int | None, key: str | None) -> list[int]:
    if row is not None and key is not None:
        raise typer.BadParameter("give --row or --key, not both")
    if row is not None:
        return [row]
    if key is None:
        count = min(rows, store.num_rows)
        return [number * store.num_rows // count for number in range(count)]
    try:
        return [store.row_of(bytes.fromhex(key))]
    except ValueError:
        raise typer.BadParameter(f"a key is 32 hexadecimal digits, got '{key}'") from None


def _show(row: Mapping[str, Any], with_text: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    facts = f"row {row['row']}  {_plain(row['name'])}  key {row['key']}  {row['num_labels']:,} labels"
    facts += f"  occurs {row['occurrences']} times" if row["occurrences"] > 1 else ""
    facts += f"  target {row['target']}" if "target" in row else ""
    console.print(Text(facts, style="bold"))
    console.print(_table(row["labels"], with_text), Text(""))


def _table(labels: list[dict[str, Any]], with_text: bool) -> "Table":
    from rich.table import Table
    from rich.text import Text

    text = bool(labels) and "token" in labels[0]
    columns = ["at", "token", "next", "log p"] if text else ["view"] if labels and "view" in labels[0] else []
    kinds = {"features": "features", "boundary": "bytes, and whether white space could be next"}
    kind = next((title for name, title in kinds.items() if labels and name in labels[0]), "classes by weight")
    table = Table(*columns, kind, show_lines=False)
    for label in labels:
        cells = [str(label["position"]), *_tokens(label, with_text)] if text else _view(label)
        table.add_row(*map(Text, cells), Text("  ".join(_unbroken(part) for part in _contents(label, with_text))))
    return table


def _tokens(label: Mapping[str, Any], with_text: bool) -> list[str]:
    value = label["teacher_log_prob"]
    names = [repr(label[f"{name}_text"]) if with_text else str(label[name]) for name in ("token", "next")]
    return [*names, "-inf" if value is None else f"{value:.2f}"]


def _view(label: Mapping[str, Any]) -> list[str]:
    """The parameters of its view, where it has one."""
    if "view" not in label:
        return []
    return ["  ".join(_unbroken(f"{name} {value}") for name, value in label["view"].items()) or "none"]


def _contents(label: Mapping[str, Any], with_text: bool) -> Iterator[str]:
    """Each class with its weight, or each layer with its norm."""
    for name, feature in label.get("features", {}).items():
        yield f"{name}: norm {feature['norm']:.4g}, [{', '.join(f'{value:.3g}' for value in feature['first'])}, ...]"
    if "boundary" in label:
        yield f"{label['bytes'][0]} to {label['bytes'][1]}, {label['boundary']:.3f}"
    for entry in label.get("entries", ()):
        yield f"{repr(entry['text']) if with_text else entry['id']} {entry['weight']:.3f}"
    if label.get("other", 0) >= 0.0005:
        yield f"(others {label['other']:.3f})"


def _unbroken(text: str) -> str:
    """A class stays on one line with its weight."""
    return text.replace(" ", "\u00a0")


def _plain(text: str) -> str:
    return text if text.isprintable() else repr(text)
