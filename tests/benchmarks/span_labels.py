"""What labels for students of any tokenizer (codec `span`) weigh on disk, of the shipped code teacher.

`bytes_per_token`: all files in the store's folder (keys, names, token ids, offsets, schemas, index, manifest, receipts,
card; but `plan/` is no part of a store), divided by the teacher's tokens that have a label. The documents are modules
of the Python standard library, in units of the default size. The token ids take 2 bytes of it, and 4 in a vocabulary
of more than 65,536: `wide_vocabulary`. `error`: what the rounding loses, as the store's own probe has it.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from cluster.labelling.run import label_store
from kdcore.config.recipe import Recipe
from kdcore.store import open_store
from tests.benchmarks.harness import REPO, emit, progress
from tests.support.labelling_runs import in_process


def recipe_of(folder: Path, documents: int) -> Recipe:
    """Labels of so many modules, with the shipped teacher."""
    return Recipe.model_validate(
        {
            "name": "span-labels",
            "runs": str(folder),
            "data": {"type": "python_stdlib", "max_samples": documents},
            "teacher": {
                "type": "causal_lm",
                "path": str(REPO / "models" / "stdlib-lm-4m"),
                "context": 256,
                "overlap": 64,
            },
            "labels": {"codec": {"type": "span"}},
        }
    )


def main() -> None:
    """Label, weigh, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.span_labels", description=__doc__)
    parser.add_argument("--documents", type=int, default=60, help="modules of the standard library")
    documents: int = parser.parse_args().documents
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as folder:
        path = label_store(recipe_of(Path(folder), documents), progress, in_process)
        store = open_store(path)
        files = [file for file in Path(path).rglob("*") if file.is_file()]
        total = sum(file.stat().st_size for file in files if "plan" not in file.relative_to(path).parts)
        weight = total / store.num_labels
        columns = {name: round(size, 3) for name, size in store.bytes_per_label().items()}
        fidelity = store.manifest.extra["fidelity"]
        size = sum(int(store.labels(row).ends[-1]) for row in range(store.num_rows))  # pyright: ignore[reportAttributeAccessIssue]
        details = {
            "tokens": store.num_labels,
            "documents": store.num_rows,
            "bytes_of_text_a_token": round(size / store.num_labels, 3),
            "columns": columns,
            "wide_vocabulary": round(weight + 2, 3),
            "error": {name: fidelity[name] for name in ("log_prob_error", "boundary_error")},
        }
    command = ["python", "-m", "tests.benchmarks.span_labels", "--documents", str(documents)]
    emit("span_labels", {"bytes_per_token": round(weight, 3)}, command, **details)


if __name__ == "__main__":
    main()
