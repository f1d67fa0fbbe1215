"""What is labelled, and by whom: pieces of the Python library, and the shipped teacher with one hole in it.

The teacher's answer to a document with `POISON` in it is NaN: the vector of that token is. All other documents are
ASCII, and untouched by it.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import REPO

__all__ = ["POISON", "poison_documents", "recipe", "write_documents", "write_teacher"]

POISON = "☠"
_MODEL = REPO / "models" / "stdlib-lm-4m"
_SMALLEST, _STEP, _SIZES = 800, 60, 17
UNIT_BYTES = 4_000


def write_documents(folder: Path, count: int) -> None:
    """Distinct documents of 0.8 to 1.8 kB."""
    folder.mkdir(parents=True)
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    text = "".join(file.read_text(encoding="utf-8").encode("ascii", "ignore").decode() for file in files)
    place = 0
    for number in range(count):
        size = _SMALLEST + _STEP * (number * 7 % _SIZES)
        (folder / f"doc{number:04d}.txt").write_text(f"# {number}\n{text[place : place + size]}")
        place += size
    assert place < len(text)


def write_teacher(folder: Path) -> None:
    """The shipped model, its embeddings no longer tied to its head, so that one of them can be NaN."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(_MODEL)
    model = AutoModelForCausalLM.from_pretrained(_MODEL, dtype=torch.float32)
    head = model.get_output_embeddings().weight.detach().clone()
    model.config.tie_word_embeddings = False
    model.get_output_embeddings().weight = torch.nn.Parameter(head)
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer(POISON, add_special_tokens=False).input_ids] = float("nan")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def poison_documents(folder: Path, name: str, files: Sequence[str]) -> None:
    """A copy of the documents under another name, in which the teacher cannot label `files`.

    No size changes, so that the units are cut alike.
    """
    shutil.copytree(folder / "docs", folder / name)
    for file in files:
        content = (folder / name / file).read_bytes()
        (folder / name / file).write_bytes(POISON.encode() + content[len(POISON.encode()) :])


def recipe(folder: Path, name: str, store: str, address: str, replicas: int, documents: str = "docs") -> dict[str, Any]:
    """Label the documents in a folder with the teacher beside it into `store`."""
    return {
        "name": name,
        "runs": str(folder / "disk" / "runs"),
        "data": {"type": "text", "path": str(folder / documents / "*.txt"), "heldout_fraction": 0.0},
        "teacher": {"type": "causal_lm", "path": str(folder / "teacher"), "context": 256, "overlap": 64},
        "labels": {
            "path": store, "unit_bytes": UNIT_BYTES, "codec": {"type": "threshold", "budget_bytes": 12},
            "max_attempts": 8, "retry_seconds": 0.2, "stuck_seconds": 40, "probe_labels": 2_000,
        },
        "cluster": {
            "address": address, "replicas": replicas, "cpus_per_replica": 1, "resource_deadline_seconds": 120,
        },
    }  # fmt: skip
