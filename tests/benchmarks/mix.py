"""What it costs to learn from three teachers at once.

`three_teacher_overhead`: a training step on an arithmetic mix of three stores, over a step on one of them, both with
this project's feed and head, in turns on the same model and tokens; medians, and the larger of two codecs.
`read_vs_single`: stored labels that a mix of three reads and mixes in a second, over those that one store reads;
`tokens_vs_single`: tokens in place of labels, of which a mix reads three for each; the smaller of two codecs, as are
the others. `written_vs_single`: tokens of the same mix once `kd store mix` has written it as a store. `bound` (in the
details): tokens of the three stores, read and not mixed, which is the most that a mix at reading could have.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kdcore.store import LabelStore, open_store
from kdcore.store.derive.mix import mix_stores
from kdcore.store.mix.mix import LabelMix
from kdcore.store.mix.opening import mix_settings
from kdcore.training.text_samples import StoreRows, TextSamples
from tests.benchmarks.harness import emit, progress
from tests.benchmarks.student_step import CLASSES, SEQUENCE, SIZES, cached_steps, make_samples

TEACHERS = 3
CODECS = ("threshold_12", "topk_12")
BATCH = 16


def speed(stores: Sequence[LabelStore | LabelMix], tokens: int, rounds: int = 3) -> float:
    """Tokens a second, of each store, read in batches of 16 sequences in random order; the best of a few rounds."""
    order = np.random.default_rng(1).integers(0, stores[0].num_rows, -(-tokens // SEQUENCE))
    zeros, ends = np.zeros(BATCH, np.int64), np.full(BATCH, SEQUENCE)
    batches = [order[first : first + BATCH] for first in range(0, len(order) - BATCH + 1, BATCH)]
    best = 0.0
    for _ in range(rounds):
        started = time.perf_counter()
        for rows in batches:
            for store in stores:
                store.labels_of(rows, zeros, ends)
        best = max(best, len(batches) * BATCH * SEQUENCE / (time.perf_counter() - started))
    return best


def measure(folder: Path, codec: str, documents: list[np.ndarray], arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds a step and tokens a second, of one store and of the mix of three."""
    stores = []
    for teacher in range(TEACHERS):
        make_samples(folder / str(teacher), codec, documents, teacher)
        stores.append(folder / str(teacher) / codec)
    settings = mix_settings(stores, "arithmetic")
    single, mix = open_store(stores[0]), LabelMix.of(settings)
    arms = {
        "one": TextSamples(StoreRows(single), SEQUENCE, True, "refuse"),
        "mix": TextSamples(StoreRows(mix), SEQUENCE, True, "refuse"),
    }
    found = {f"{name}_step": took for name, took in (cached_steps(arms, arguments) if arguments.steps else {}).items()}
    started = time.perf_counter()
    mix_stores(folder / "written", settings)
    found["writing_s"] = time.perf_counter() - started
    read = {"one": [single], "mix": [mix], "all": mix.stores, "written": [open_store(folder / "written")]}
    found |= {f"{name}_tokens_per_s": speed(parts, arguments.tokens) for name, parts in read.items()}
    progress(f"{codec}: {found}")
    return found


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.mix", description=__doc__)
    parser.add_argument("--sequences", type=int, default=8, help=f"of {SEQUENCE} tokens a step")
    parser.add_argument("--steps", type=int, default=4, help="of a block, after one to warm up; 0: read alone")
    parser.add_argument("--rounds", type=int, default=5, help="blocks of each arm, in turns")
    parser.add_argument("--documents", type=int, default=32, help="different sequences")
    parser.add_argument("--tokens", type=int, default=1_000_000, help="that are read for read_vs_single")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--size", choices=list(SIZES), default="small", help="of the student; large is for GPUs")
    arguments = parser.parse_args()
    arguments.student, _ = SIZES[arguments.size]
    torch.set_num_threads(arguments.threads)
    generator = np.random.default_rng(0)
    documents = [generator.integers(2, CLASSES, SEQUENCE + 1).astype(np.int64) for _ in range(arguments.documents)]
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as name:
        found = {codec: measure(Path(name) / codec, codec, documents, arguments) for codec in CODECS}
    tokens, bound, written = (
        {codec: each[f"{arm}_tokens_per_s"] / each["one_tokens_per_s"] for codec, each in found.items()}
        for arm in ("mix", "all", "written")
    )
    steps = [each["mix_step"] / each["one_step"] for each in found.values() if arguments.steps]
    headline = {
        **({"three_teacher_overhead": max(steps)} if steps else {}),
        "read_vs_single": TEACHERS * min(tokens.values()),
        "tokens_vs_single": min(tokens.values()),
        "written_vs_single": min(written.values()),
    }
    emit(
        "mix",
        {key: round(value, 3) for key, value in headline.items()},
        ["python", "-m", "tests.benchmarks.mix", *sys.argv[1:]],
        **{
            name: {codec: round(value, 3) for codec, value in each.items()}
            for name, each in (("tokens", tokens), ("bound", bound), ("written", written))
        },
        measured={codec: {key: round(value, 4) for key, value in each.items()} for codec, each in found.items()},
        teachers=TEACHERS,
        tokens_a_step=arguments.sequences * SEQUENCE,
        classes=CLASSES,
    )


if __name__ == "__main__":
    main()
