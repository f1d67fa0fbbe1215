"""YAML to a checked `Recipe`, and back; every mistake is answered with its dotted path and the nearest valid key."""

import copy
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kdcore.config.explain import explain
from kdcore.config.paths import path_settings
from kdcore.config.recipe import Recipe
from kdcore.config.urls import is_url
from kdcore.errors import ConfigError

__all__ = ["dump_recipe", "load_recipe", "parse_recipe", "read_tree", "require", "resolve_paths"]

_GLOB = frozenset("*?[")
_EXPONENT = r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key given twice is an error and `1e-3` is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise ConfigError(f"line {key_node.start_mark.line + 1}: keys are names, got {key!r}")
            if key in seen:
                raise ConfigError(f"line {key_node.start_mark.line + 1}: '{key}' is given twice; remove one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _add_exponent_floats() -> None:
    """YAML 1.1 reads `3e-4` as a string; here it is a number, as everybody expects."""
    import re

    _Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_EXPONENT), list("-+0123456789"))


_add_exponent_floats()


def _read_yaml(text: str, origin: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader subclass
    except yaml.YAMLError as error:
        raise ConfigError(f"{origin} is not valid YAML: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{origin}, {error}") from error


def _override(tree: dict[str, Any], assignment: str) -> None:
    """Apply one `a.b=value` to the nested dictionary, in place; the value is YAML."""
    dotted, equals, text = assignment.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(f"an override is written path.to.key=value, got '{assignment}'")
    node = tree
    for depth, key in enumerate(keys[:-1]):
        child = node.setdefault(key, {})
        child = {} if child is None else child
        if not isinstance(child, dict):
            path = ".".join(keys[: depth + 1])
            raise ConfigError(f"override '{assignment}': {path} is {child!r}, not a group of settings")
        node[key] = child
        node = child
    node[keys[-1]] = _read_yaml(text, f"the value of '{assignment}'")


def _absolute(value: str, base: Path, must_exist: bool) -> str:
    """`value` made absolute when it names something local; a hub name or a URL stays what it is."""
    if is_url(value):
        return value
    path = Path(value).expanduser()
    if path.is_absolute():
        return str(path)
    fixed = Path(*_parts_before_glob(path))
    exists = (base / fixed).exists() and (fixed.parts or _GLOB & set(value))
    return str(base / path) if exists or not must_exist else value


def _parts_before_glob(path: Path) -> list[str]:
    parts: list[str] = []
    for part in path.parts:
        if _GLOB & set(part):
            break
        parts.append(part)
    return parts


def resolve_paths(tree: dict[str, Any], base: Path) -> None:
    """Make relative local paths absolute, in place, so that workers in another folder open the same files."""
    for setting in path_settings(Recipe):
        setting.change(tree, partial(_absolute, base=base, must_exist=not setting.mark.made))


def parse_recipe(tree: Any, origin: str = "recipe", base: Path | None = None) -> Recipe:
    """A `Recipe` from nested dictionaries; relative paths that exist under `base` (default: here) become absolute.

    Raises ConfigError naming every wrong setting by its dotted path.
    """
    if not isinstance(tree, dict):
        raise ConfigError(f"{origin} must be a mapping of settings, got {type(tree).__name__}")
    if "chain" in tree:
        raise ConfigError(
            f"{origin} is a chain of recipes, which `kd distill` runs stage by stage; this job takes one recipe: the "
            "resolved one of a stage is RUNS/NAME/STAGE/config.yaml once it has begun"
        )
    tree = copy.deepcopy(tree)
    tree.setdefault("runs", "runs")
    resolve_paths(tree, base or Path.cwd())
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{origin}: {explain(error, tree)}") from error


def read_tree(path: str | Path, overrides: Iterable[str] = ()) -> Any:
    """What a recipe file and the overrides `a.b=value` say, unchecked. Raises ConfigError as `load_recipe` does."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read recipe '{path}': {error}; give the path of a YAML file") from error
    tree = _read_yaml(text, str(path))
    if isinstance(tree, dict):
        for assignment in overrides:
            _override(tree, assignment)
    return tree


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe file, apply `a.b=value` overrides, check everything.

    Raises ConfigError: missing file, bad YAML, a key given twice, an unknown key (with the nearest valid one),
    a wrong value, or an impossible combination.
    """
    return parse_recipe(read_tree(path, overrides), str(path))


def dump_recipe(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out; `load_recipe` reads it back to an equal recipe."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def require(recipe: Recipe, *groups: str) -> None:
    """Raise ConfigError unless the recipe has each of the named groups (`teacher`, `student`, ...)."""
    missing = [group for group in groups if getattr(recipe, group) is None]
    if missing:
        names = ", ".join(f"'{group}'" for group in missing)
        raise ConfigError(f"recipe '{recipe.name}' lacks {names}, which this job needs; add the group to the recipe")
