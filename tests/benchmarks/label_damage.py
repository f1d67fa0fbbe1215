"""What becomes of a damaged label store: cut, flipped, zeroed, swapped, edited, hostile; and is any of it served?

A small store is made by the real labelling path, and a copy of it damaged in every way; each damage is read (every
label decoded) and verified in child processes. `truncations`: files that carry labels or prove them (shards, index,
manifest, identity), cut to every length; `truncations_served`: those that could be read (identity.json, which readers
do not need: that verified). `bitflips`: random single bits of these files; `bitflips_served`: those that full
verification did not report. Both must be 0.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from cluster.labelling.replica.replica import Replica
from cluster.labelling.run import label_store
from cluster.labelling.twin import InProcessPool
from kdcore.config import Recipe
from tests.benchmarks import damage_files as files
from tests.benchmarks import damage_manifests as manifests
from tests.benchmarks import damage_pickles as pickles
from tests.benchmarks.damage_children import Bench, Files, Found, look, look_once, look_while_open
from tests.benchmarks.damage_seal import IDENTITY, MANIFEST, Contents
from tests.benchmarks.damage_tally import Tally, harmless, refused, reported, told, unmoved
from tests.benchmarks.harness import emit, progress
from tests.support import tiny_teacher

CODEC = {"type": "threshold", "budget_bytes": 8}
QUICK_STEP, QUICK_FLIPS = 211, 300


@contextmanager
def _in_process(recipe: Recipe, replicas: int) -> Iterator[InProcessPool]:
    yield InProcessPool(lambda: Replica(recipe.model_dump_json(), str(recipe.store_path)))


def make_store(folder: Path, name: str, codec: dict[str, Any]) -> Path:
    """A store of a few small shards: documents twice the same, empty, of one token, longer than the context."""
    recipe = tiny_teacher.recipe(folder, name, labels={"unit_bytes": 700, "codec": codec})
    return Path(label_store(Recipe.model_validate(recipe), progress, _in_process))


def make_input(folder: Path) -> None:
    """A teacher and its documents."""
    tiny_teacher.write_documents(folder / "docs", 12)
    (folder / "docs" / "empty.txt").write_text("")
    (folder / "docs" / "one.txt").write_text("t")
    tiny_teacher.write_teacher(folder / "teacher")


def with_ray_types(store: Path, damage: Files) -> Found:
    """Look, in a process in which Ray has registered its extension types with Arrow."""
    import ray.data  # noqa: F401

    return look(store, damage)


@dataclass(frozen=True)
class Plan:
    """The whole store's files, another store's shards, a whole copy outside, and how much to try."""

    contents: Contents
    foreign: Contents
    outside: Path
    every: int
    flips: int

    @property
    def shards(self) -> list[str]:
        """Names of the shards."""
        return sorted(name for name in self.contents if name.startswith("data/"))

    @property
    def index(self) -> str:
        """Name of the index."""
        return next(name for name in self.contents if name.startswith("index-"))

    @property
    def read(self) -> list[str]:
        """What readers rest on."""
        return [*self.shards, self.index, MANIFEST]


def measure(tally: Tally, plan: Plan) -> None:
    """Every class of damage."""
    _cut_and_zeroed(tally, plan)
    _flipped(tally, plan)
    _moved(tally, plan)
    _edited(tally, plan)
    tally.run("hostile_paths", manifests.hostile(plan.contents, plan.shards, plan.outside), refused)
    tally.run("hostile_paths", manifests.linked(plan.outside, [IDENTITY]), reported)
    _pickles(tally, plan)


def _cut_and_zeroed(tally: Tally, plan: Plan) -> None:
    contents, every, some = plan.contents, plan.every, [plan.shards[0], plan.index]
    tally.run("truncations", files.cuts(contents, plan.read, every), refused, look_once)
    tally.run("truncations", files.cuts(contents, [IDENTITY], every), reported, look_once)
    tally.run("truncations_sealed", files.cuts_with_right_size(contents, some, every), refused, look_once)
    tally.run("truncations_under_a_reader", files.cuts(contents, some, 8 * every), refused, look_while_open)
    tally.run("zeroed_tails", files.zeroed_tails(contents, plan.read, 4 * every), refused, look_once)
    tally.run("zeroed_tails", files.zeroed_tails(contents, [IDENTITY], 4 * every), reported, look_once)


def _flipped(tally: Tally, plan: Plan) -> None:
    contents, flips, proof = plan.contents, plan.flips, [*plan.read, IDENTITY]
    some = files.flips(contents, [plan.shards[0], plan.index], flips // 10, seed=1)
    tally.run("bitflips", files.flips(contents, proof, flips), reported)
    tally.run("bitflips_under_a_reader", some, refused, look_while_open)
    rest = sorted(set(contents) - set(proof))
    tally.run("bitflips_outside_the_proof", files.flips(contents, rest, flips // 10), unmoved)


def _moved(tally: Tally, plan: Plan) -> None:
    contents, shards = plan.contents, plan.shards
    tally.run("missing_files", files.missing(plan.read), refused)
    tally.run("missing_files", files.missing([IDENTITY]), reported)
    tally.run("extra_files", files.extra(contents, shards, plan.foreign), unmoved)
    tally.run("doubled_shards", files.doubled(contents, shards), refused)
    tally.run("swapped_shards", files.swapped(contents, shards), refused)
    tally.run("foreign_shards", files.foreign_shards(contents, shards, plan.foreign), refused)


def _edited(tally: Tally, plan: Plan) -> None:
    step = min(plan.every, 13)
    bearing, notes = manifests.edits(plan.contents, sealed=False)
    tally.run("manifest_edits_unsealed", [*bearing, *notes][::step], refused, look_once)
    bearing, notes = manifests.edits(plan.contents, sealed=True)
    tally.run("manifest_edits_sealed", bearing[::step], told, look_once)
    tally.run("manifest_edits_sealed_of_notes", notes[::step], harmless, look_once)


def _pickles(tally: Tally, plan: Plan) -> None:
    trap = plan.outside.parent / "trapped"
    damages = pickles.pickles(plan.contents, [plan.shards[0], plan.index], trap)
    tally.run("pickles", damages, refused)
    if plan.every == 1:  # Ray takes a while to import
        tally.run("pickles_beside_ray", damages, refused, with_ray_types)
    if trap.exists():
        tally.uncaught.append("pickles: one of them was loaded")
    assert pickles.springs(trap)


def contents_of(store: Path) -> dict[str, bytes]:
    """Every file of a store by its name."""
    return {str(file.relative_to(store)): file.read_bytes() for file in sorted(store.rglob("*")) if file.is_file()}


def run(folder: Path, flips: int, quick: bool) -> Tally:
    """Make the stores and damage the copy."""
    make_input(folder)
    store = make_store(folder, "whole", CODEC)
    foreign = contents_of(make_store(folder, "foreign", {"type": "topk", "k": 4}))
    shutil.copytree(store, folder / "outside")
    plan = Plan(
        contents_of(store),
        {name: content for name, content in foreign.items() if name.startswith("data/")},
        folder / "outside",
        every=QUICK_STEP if quick else 1,
        flips=min(flips, QUICK_FLIPS) if quick else flips,
    )
    progress(f"{len(plan.shards)} shards; bytes: { {name: len(content) for name, content in plan.contents.items()} }")
    tally = Tally(Bench(store, folder / "copy"))
    measure(tally, plan)
    return tally


def headline_of(classes: dict[str, dict[str, int]]) -> dict[str, float]:
    """Tries, and those that were not caught."""
    figures: dict[str, float] = {}
    for name in ("truncations", "bitflips"):
        figures[name] = classes[name]["tried"]
        figures[f"{name}_served"] = classes[name]["tried"] - classes[name]["caught"]
    return figures


def main() -> None:
    """Measure, and print the JSON line; exit status 1 when anything was not caught."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.label_damage", description=__doc__)
    parser.add_argument("--flips", type=int, default=10_000, help="random bits to flip (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="a small part, in seconds; no figures to publish")
    arguments = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="kdcore-damage-") as folder:
        tally = run(Path(folder), arguments.flips, arguments.quick)
    for line in tally.uncaught[:20]:
        progress(f"NOT CAUGHT {line}")
    emit(
        "label_damage",
        headline_of(tally.classes),
        ["python", "-m", "tests.benchmarks.label_damage", *sys.argv[1:]],
        uncaught=len(tally.uncaught),
        signals=sum(counts.get("signals", 0) for counts in tally.classes.values()),
        seconds=round(time.perf_counter() - began, 1),
        classes=tally.classes,
    )
    raise SystemExit(1 if tally.uncaught else 0)


if __name__ == "__main__":
    main()
