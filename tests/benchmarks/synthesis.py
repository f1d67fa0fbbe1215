"""What it costs to let a teacher write texts: labels taken while it writes, and two workers instead of one.

`label_while_generating_speedup`: tokens a second of units that are labelled while they are written, over those of the
same texts written without labels, put into a file and labelled by the ordinary pass over it; medians over the rounds,
all in one process on one core. `two_worker_speedup`: samples a second of two workers on Ray over those of one, for the
same samples, while all of them are at work: from the first unit that is done when each has begun one, until the last
unit is given out. Both sets are compared to the bit.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cluster.labelling.controller import Outcome, Pool
from cluster.labelling.policy import moves
from cluster.labelling.pool import ray_pool
from cluster.synthesis.kinds import making_of
from cluster.synthesis.run import synthesize
from kdcore.config import Recipe
from kdcore.config.synthesis.text import SelfGenerationConfig
from kdcore.data.synthesised.places import units_folder
from kdcore.store import open_store
from kdcore.synthesis.units import SynthesisUnit, cut_units
from tests.benchmarks.harness import REPO, emit, progress
from tests.benchmarks.labelling_speed import in_process

SHARED = REPO.parent / "shared" / "data"


def recipe(folder: Path, name: str, arguments: argparse.Namespace, replicas: int = 1, **changes: Any) -> Recipe:
    """Stories of the story teacher, labelled with 12 bytes a token."""
    synthesis = {"type": "self_generation", "samples": arguments.samples, "unit_samples": arguments.unit_samples}
    return Recipe.model_validate(
        {
            "name": name,
            "runs": str(folder / "runs"),
            "data": {"type": "text", "path": str(SHARED / "tinystories" / "valid.txt"), "heldout_fraction": 0.0},
            "teacher": {
                "type": "causal_lm", "path": str(SHARED / "stories260k"), "context": 512,
                "tokenizer": str(REPO / "configs" / "data" / "stories-tokenizer"),
            },
            "synthesis": {**synthesis, "max_tokens": arguments.max_tokens, "batch": arguments.unit_samples},
            "labels": {"codec": {"type": "threshold", "budget_bytes": 12}, "unit_bytes": 1 << 30},
            "cluster": {"replicas": replicas},
            **changes,
        }
    )  # fmt: skip


class OneProcess:
    """A teacher in this process that writes units with labels, and without."""

    def __init__(self, folder: Path, arguments: argparse.Namespace) -> None:
        import torch

        from cluster.synthesis.text_replica import TextReplica

        torch.set_num_threads(1)
        self._folder, self._arguments = folder, arguments
        self._recipe = recipe(folder, "while", arguments)
        self._raw = str(units_folder(self._recipe, 0))
        self._replica = TextReplica(self._recipe.model_dump_json(), self._raw)
        self._replica.identity()  # the codec is settled before anything is timed

    @property
    def units(self) -> tuple[SynthesisUnit, ...]:
        """All that are to be written."""
        assert self._recipe.synthesis is not None
        return cut_units(self._recipe.synthesis)

    def while_writing(self, unit: SynthesisUnit) -> tuple[float, int]:
        """Seconds of a unit with its labels, and how many these are."""
        began = time.perf_counter()
        receipt = self._replica.label(unit, "bench")
        return time.perf_counter() - began, receipt.labels

    def afterwards(self, unit: SynthesisUnit) -> tuple[float, float]:
        """Seconds of writing the texts of a unit into a file, and of labelling the file."""
        path = self._folder / f"{unit.id}.jsonl"
        began = time.perf_counter()
        lines = (json.dumps({"text": text}) + "\n" for text in self._texts(unit))
        path.write_text("".join(lines), encoding="utf-8")
        seconds = time.perf_counter() - began
        data = {"type": "text", "path": str(path), "heldout_fraction": 0.0}
        after = recipe(self._folder, f"after-{unit.id}", self._arguments, data=data, synthesis=None)
        return seconds, in_process(after)

    def _texts(self, unit: SynthesisUnit) -> list[str]:
        from kdcore.synthesis.text.beginnings import Prompts
        from kdcore.synthesis.text.unit import beginnings_of, writing_of
        from kdcore.teachers.causal_lm import CausalLMTeacher

        config, teacher = self._recipe.synthesis, self._replica.teacher
        assert isinstance(config, SelfGenerationConfig)
        assert isinstance(teacher, CausalLMTeacher)
        begin = teacher.tokenizer.bos_token_id
        beginnings = beginnings_of(config, Prompts(config, teacher.tokenizer.encode, begin), unit)
        writing = writing_of(config, beginnings, {begin})
        for _ in writing.steps(teacher):
            pass
        pairs = zip(writing.tokens, writing.lengths.tolist(), strict=True)
        return [str(teacher.tokenizer.decode(row[:length], skip_special_tokens=True)) for row, length in pairs]


@dataclass
class Watched:
    """A pool that notes when units are given out, to whom, and when they are done."""

    pool: Pool
    given: list[tuple[int, float]] = field(default_factory=list)
    done: list[float] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.pool, name)

    def submit(self, replica: int, unit: Any, attempt: str, batch_divisor: int = 1) -> None:
        """As the pool does, with a note of the time."""
        self.pool.submit(replica, unit, attempt, batch_divisor)
        self.given.append((replica, time.perf_counter()))

    def wait(self, timeout: float | None = None) -> Outcome | None:
        """As the pool does, with a note of the time."""
        outcome = self.pool.wait(timeout)
        if outcome is not None and isinstance(outcome.event, moves.UnitDone):
            self.done.append(time.perf_counter())
        return outcome

    @property
    def units_per_second(self) -> float:
        """While all are at work."""
        first: dict[int, float] = {}
        for replica, when in self.given:
            first.setdefault(replica, when)
        begun = min(when for when in self.done if when >= max(first.values()))
        last = self.given[-1][1]
        return sum(begun < when <= last for when in self.done) / (last - begun)


def on_ray(wanted: Recipe) -> float:
    """Units a second on a cluster of its own."""
    seen: list[Watched] = []

    @contextmanager
    def watched(recipe: Recipe, replicas: int) -> Iterator[Pool]:
        raw, kind = str(units_folder(recipe, 0)), making_of(recipe).replica
        with ray_pool(recipe, replicas, store_path=raw, kind=kind) as pool:
            seen.append(Watched(pool))
            yield cast(Pool, seen[0])

    synthesize(wanted, on_note=progress, make_pool=watched)
    return seen[0].units_per_second


def tokens_of(wanted: Recipe) -> dict[bytes, bytes]:
    """The tokens of a recipe's texts, by key."""
    store = open_store(wanted.store_path)
    return {store.key(row): store.tokens(row).tobytes() for row in range(store.num_rows)}


def main() -> None:
    """Measure, and print the JSON line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.synthesis", description=__doc__)
    parser.add_argument("--samples", type=int, default=1536, help="texts of the two workers")
    parser.add_argument("--unit-samples", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3, help="units that are labelled both ways; and of the workers")
    arguments = parser.parse_args()
    ratios: list[float] = []
    speeds: list[dict[str, float]] = []
    one: list[float] = []
    two: list[float] = []
    with tempfile.TemporaryDirectory(prefix="kdcore-bench-") as temporary:
        folder = Path(temporary)
        here = OneProcess(folder, arguments)
        for unit in here.units[: arguments.rounds]:
            seconds, labels = here.while_writing(unit)
            written, passed = here.afterwards(unit)
            ratios.append((written + passed) / seconds)
            speeds.append({"while": labels / seconds, "written": labels / written, "labelled": labels / passed})
            progress(
                f"{labels:,} tokens: {seconds:.1f} s at once, {written:.1f} s and {passed:.1f} s one after the other"
            )
        for number in range(arguments.rounds):
            wanted = [recipe(folder, f"{name}-{number}", arguments, name) for name in (1, 2)]
            one.append(on_ray(wanted[0]))
            two.append(on_ray(wanted[1]))
            assert tokens_of(wanted[0]) == tokens_of(wanted[1])
            progress(f"one worker {one[-1]:.3f} units a second, two {two[-1]:.3f}")
    headline = {
        "two_worker_speedup": round(statistics.median(two) / statistics.median(one), 4),
        "label_while_generating_speedup": round(statistics.median(ratios), 4),
    }
    emit(
        "synthesis",
        headline,
        ["python", "-m", "tests.benchmarks.synthesis", *sys.argv[1:]],
        tokens_per_second={
            name: round(statistics.median(each[name] for each in speeds)) for name in ("while", "written", "labelled")
        },
        samples_per_second={
            name: [round(value * arguments.unit_samples, 2) for value in values]
            for name, values in (("one", one), ("two", two))
        },
        ratios=[round(value, 4) for value in ratios],
        samples=arguments.samples,
        unit_samples=arguments.unit_samples,
        max_tokens=arguments.max_tokens,
        rounds=arguments.rounds,
    )


if __name__ == "__main__":
    main()
