"""A recipe of recipes: stages one after the other, the student of one the teacher of the next.

Teacher assistants (TAKD, Mirzadeh et al., arXiv 1902.03393) and born-again generations (Furlanello et al., arXiv
1805.04770) are such chains: of smaller and smaller students, and of the same one over again.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcore.config.load import parse_recipe, read_tree
from kdcore.config.recipe import Recipe
from kdcore.errors import ConfigError

__all__ = ["CHAIN", "Chain", "load_chain"]

CHAIN = "chain"
"""The key of a recipe that lists its stages."""

_OF_WEIGHTS = ("architecture", "fit", "kwargs", "lora", "name", "path", "revision", "source", "tokenizer")
"""Settings of a teacher that say which network it is, not how it is run."""


@dataclass(frozen=True)
class Chain:
    """The recipes of all stages, in their order, each in a folder of its own within RUNS/NAME."""

    name: str
    folder: Path
    stages: tuple[Recipe, ...]


def load_chain(path: str | Path, overrides: Iterable[str] = ()) -> Chain | None:
    """The chain of a recipe file, of which all settings are those of every stage; None for a recipe without `chain`.

    A stage has a `name`, and what differs: groups of settings are merged, lists and values replaced. ConfigError for
    what is no such list, and as `load_recipe` of each stage.
    """
    tree = read_tree(path, overrides)
    if not isinstance(tree, dict) or CHAIN not in tree:
        return None
    given = tree.pop(CHAIN)
    _check(given, str(path))
    name, runs = tree.get("name"), Path(str(tree.get("runs", "runs"))).expanduser().absolute()
    if not isinstance(name, str):
        raise ConfigError(f"{path}: a chain needs a `name`, of the folder that its stages have in `runs`")
    stages: list[Recipe] = []
    for number, own in enumerate(given):
        stage = _merged(copy.deepcopy(tree), {**own, "runs": str(runs / name)})
        if stages:
            stage["teacher"] = _merged(_taught(stages[-1], stage), own.get("teacher") or {})
        stages.append(parse_recipe(stage, f"{path}, chain.{number} ('{own['name']}')"))
    _check_stores(stages, str(path))
    return Chain(name, runs / name, tuple(stages))


def _check(given: Any, origin: str) -> None:
    named = isinstance(given, list) and all(isinstance(own, dict) and isinstance(own.get("name"), str) for own in given)
    names = [own["name"] for own in given] if named else []
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(
            f"{origin}: `chain` lists two stages or more, each with a `name` of its own and what differs in it, got "
            f"{names or given!r}"
        )
    for own in given:
        if "runs" in own or (own.get("labels") or {}).get("mix"):
            raise ConfigError(
                f"{origin}: stage '{own['name']}' of a chain learns from the student before it, in a folder of the "
                "chain: leave `runs` and `labels.mix` out of it"
            )


def _check_stores(stages: Sequence[Recipe], origin: str) -> None:
    paths = [stage.store_path for stage in stages]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise ConfigError(
            f"{origin}: every stage of a chain has another teacher, so that its labels need a store of their own, but "
            f"several have '{twice}': leave labels.path out, or give one in each stage"
        )


def _taught(before: Recipe, stage: dict[str, Any]) -> dict[str, Any]:
    """The settings of the student of a stage as a teacher, run as the chain's own teacher is."""
    assert before.student is not None
    assert before.training is not None
    seed = before.training.seeds[0]
    own = stage.get("teacher") or {}
    alike = own.get("type") == before.student.type  # an endpoint is run otherwise than the networks after it
    run = {key: value for key, value in own.items() if alike and key not in _OF_WEIGHTS}
    network = before.student.model_dump(mode="json", exclude_unset=True)
    if before.student.type == "image_classifier":
        run |= {key: network[key] for key in ("source", "name", "kwargs") if key in network}
    elif before.student.type == "text_classifier":
        run |= {key: network[key] for key in ("max_length",) if key in network}
    return {
        **run,
        "type": before.student.type,
        "path": str(before.run_dir / "arms" / f"student-seed{seed}" / "student"),
    }


def _merged(tree: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """`tree` with what `own` says instead, group by group; `kwargs` of a network are replaced as one."""
    for key, value in own.items():
        before = tree.get(key)
        if isinstance(value, dict) and isinstance(before, dict) and key != "kwargs":
            tree[key] = _merged(before, value)
        else:
            tree[key] = copy.deepcopy(value)
    return tree
