"""Texts that the tiny teacher writes, in this process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.labelling.run import PoolMaker
from cluster.labelling.twin import InProcessPool
from cluster.synthesis.run import synthesize
from cluster.synthesis.text_gather import gather
from cluster.synthesis.text_replica import TextReplica
from kdcore.config.recipe import Recipe
from kdcore.data.synthesised.gathering import Generation
from kdcore.data.synthesised.places import units_folder

LABELS = {"codec": {"type": "threshold", "draws": 12}, "probe_labels": 100}


def recipe(folder: Path, name: str, changes: dict[str, Any] | None = None, **synthesis: Any) -> Recipe:
    """A recipe of the teacher in `folder`; `changes` replace whole sections."""
    asked = {"samples": 14, "unit_samples": 6, "max_tokens": 24, "batch": 4, "prompts": ["the {who}", "a "]}
    asked |= {"slots": {"who": ["cat", "dog", "old log"]}, **synthesis}
    return Recipe.model_validate(
        {
            "name": name,
            "runs": str(folder / "runs"),
            "data": {"type": "text", "path": str(folder / "nothing" / "*.txt")},
            "teacher": {"type": "causal_lm", "path": str(folder / "teacher"), "context": 24, "overlap": 8},
            "synthesis": {"type": "self_generation", **asked},
            "labels": LABELS,
            "cluster": {"replicas": 1},
            **(changes or {}),
        }
    )


def write(asked: Recipe, generation: int = 0, deaths: Sequence[tuple[str, int]] = ()) -> Generation:
    """Make a generation, with writers that die at some units' attempts."""
    return synthesize(asked, generation, lambda note: None, _pool(generation, deaths), gather)


def _pool(generation: int, deaths: Sequence[tuple[str, int]]) -> PoolMaker:
    @contextmanager
    def make(recipe: Recipe, replicas: int) -> Iterator[InProcessPool]:
        asked = recipe.model_dump_json()
        yield InProcessPool(lambda: TextReplica(asked, str(units_folder(recipe, generation))), deaths)

    return make
