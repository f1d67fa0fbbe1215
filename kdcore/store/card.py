"""The dataset card of a store: what it is, and how other tools open it."""

from collections.abc import Mapping
from typing import Any

__all__ = ["dataset_card"]


def dataset_card(manifest: Mapping[str, Any]) -> str:
    """README.md of a finished store, from the manifest's JSON."""
    identity = manifest["identity"]
    teacher = identity.get("teacher") or {}
    codec = identity["codec"]
    labels = max(1, manifest["labels"])
    # Named one by one: an interrupted attempt may have left a file in data/ that is not part of the store.
    files = "\n".join(f"      - {shard['shard']}" for shard in manifest["shards"])
    facts = {
        "kind": identity["kind"],
        "teacher": teacher.get("path") or teacher.get("name") or teacher.get("type"),
        "teacher weights": teacher.get("weights"),
        "teacher dtype": teacher.get("dtype"),
        "tokenizer": identity.get("tokenizer"),
        "codec": ", ".join(f"{key} {value}" for key, value in codec.items() if not isinstance(value, dict | list)),
        "numerics": ", ".join(f"{key} {value}" for key, value in (identity.get("numerics") or {}).items()) or None,
        "labelled tokens": identity.get("mask"),
        "chat template": identity.get("chat_template"),
        "views": _views(identity.get("views")),
        "input": identity.get("input"),
        "rows": f"{manifest['rows']:,}",
        "labels": f"{manifest['labels']:,}",
        "bytes": f"{manifest['bytes']:,} ({manifest['bytes'] / labels:.1f} per label)",
        "created": manifest["created"],
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items() if value is not None)
    return _CARD.format(files=files, table=table, licence=_LICENCE)


def _views(views: Mapping[str, Any] | None) -> str | None:
    """How many, and what happens to them."""
    if views is None:
        return None
    policy = {name: value for name, value in views["policy"].items() if name not in ("per_image", "seed")}
    changes = ", ".join(name.replace("_", " ") for name, value in policy.items() if value)
    side = views["size"]
    return f"{views['policy']['per_image']} of each image, {side} x {side} pixels: {changes or 'the image as it is'}"


_LICENCE = "The licence of the labels follows from the licences of the teacher and of the input; this store adds none."
_CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path:
{files}
tags:
- soft-labels
- knowledge-distillation
---

# Soft labels

| what | value |
|---|---|
{table}

{licence}

```python
import kdcore.store
store = kdcore.store.open_store("THIS_FOLDER")   # verifies sizes and footers; verify="full" also the digests
labels = store.labels(0)                         # soft labels of the first row
```

```python
import datasets
rows = datasets.load_dataset("THIS_FOLDER", split="train")   # raw columns, for a look
```

`manifest.json` proves that the store is complete, with a digest of every shard. What the columns of a codec hold is
in the format's description (FORMAT.md of kdcore); `store.labels` decodes them.
"""
