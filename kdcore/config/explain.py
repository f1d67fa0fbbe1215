"""Pydantic's complaints in a person's words: dotted path, value received, nearest valid key, valid types."""

import difflib
from collections.abc import Iterator
from typing import Any, get_origin

from pydantic import BaseModel, ValidationError

from kdcore.config.paths import groups_of
from kdcore.config.recipe import Recipe

__all__ = ["explain"]

_FEW = 20  # types that one line names; there are more of losses alone


def explain(error: ValidationError, tree: Any, at: tuple[str, ...] = ()) -> str:
    """One line per mistake of `error`, from validating `tree` as a Recipe, or what of it is `at` a path."""
    found = error.errors(include_url=False)
    lines = [_line({**item, "loc": (*at, *item["loc"])}, tree) for item in found]
    return lines[0] if len(lines) == 1 else f"{len(lines)} mistakes\n  " + "\n  ".join(lines)


def _line(item: dict[str, Any], tree: Any) -> str:
    path = _real_path(item["loc"], tree)
    dotted = ".".join(path) or "the recipe"
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path, item["input"], tree)
    if kind == "missing":
        return f"'{dotted}' is required and missing"
    if kind == "union_tag_not_found":
        return f"'{dotted}' needs a `type`: {_one_of([_tag(model) for model in _candidates(path, tree)])}"
    if kind == "union_tag_invalid":
        tags = str(context["expected_tags"]).replace("'", "").split(", ")
        return f"'{dotted}.type' is '{context['tag']}'; {_valid(str(context['tag']), tags)}"
    reason = str(context["error"]) if kind == "value_error" else item["msg"]
    if not path or isinstance(item["input"], dict):
        return f"{dotted}: {reason}"
    return f"'{dotted}' is {item['input']!r}: {reason[0].lower() + reason[1:]}"


def _real_path(location: tuple[int | str, ...], tree: Any) -> list[str]:
    """The keys of a pydantic location without the union tags that it puts between them."""
    path: list[str] = []
    node = tree
    for index, part in enumerate(location):
        last = index == len(location) - 1
        if isinstance(node, dict) and part not in node and part == node.get("type"):
            continue
        if isinstance(node, str | int | float) or (last and part in ("str", "int", "float")):
            continue  # a branch of `str | tuple[str, ...]`
        path.append(str(part))
        node = _child(node, part)
    return path


def _child(node: Any, part: int | str) -> Any:
    if isinstance(node, dict):
        return node.get(part)
    return node[part] if isinstance(node, list) and isinstance(part, int) and part < len(node) else None


def _tag(model: type[BaseModel]) -> str:
    field = model.model_fields.get("type")
    return str(field.default) if field else ""


def _candidates(path: list[str], tree: Any) -> list[type[BaseModel]]:
    """The settings groups that may stand at `path`, narrowed by the `type` given there."""
    models: list[type[BaseModel]] = [Recipe]
    node = tree
    for key in path:
        if isinstance(node, list):  # its entries are what its own key may hold
            node = _child(node, int(key)) if key.isdigit() else None
            given = node.get("type") if isinstance(node, dict) else None
            models = [model for model in models if _tag(model) == given] or models
            continue
        node = node.get(key) if isinstance(node, dict) else None
        options = [m for model in models if key in model.model_fields for m in groups_of(_annotation(model, key))]
        given = node.get("type") if isinstance(node, dict) else None
        models = [model for model in options if _tag(model) == given] or options
    return models


def _annotation(model: type[BaseModel], key: str) -> Any:
    return model.model_fields[key].annotation


def _one_of(types: list[str]) -> str:
    """All of them, or where they are listed."""
    return f"one of {', '.join(types)}" if len(types) <= _FEW else f"one of {len(types)}, listed in METHODS.md"


def _valid(word: str, types: list[str]) -> str:
    """The nearest first where there are many."""
    few = len(types) <= _FEW
    begin = [] if few else [name for name in types if name.startswith(f"{word}_")]
    alike = difflib.get_close_matches(word, types, n=3, cutoff=0.5)
    near = ", ".join(f"'{name}'" for name in list(dict.fromkeys([*begin, *alike]))[: 1 if few else 3])
    if few:
        return f"valid types: {', '.join(types)}{f' (nearest: {near})' if near else ''}"
    return f"{f'nearest: {near}; ' if near else ''}all {len(types)} valid types are listed in METHODS.md"


def _unknown_key(path: list[str], value: Any, tree: Any) -> str:
    *group, key = path
    keys = list(dict.fromkeys(name for model in _candidates(group, tree) for name in model.model_fields))
    line = f"unknown key '{'.'.join(path)}' (value {_short(value)})"
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    if near:
        return f"{line}; nearest valid key: '{'.'.join([*group, near[0]])}'"
    # Its own place may be a key of another `type`.
    in_list = any(part.isdigit() for part in group)
    others = set() if in_list else set(_places(key, Recipe, ())) - {".".join(path)}
    elsewhere = sorted(others, key=lambda place: (place.split(".")[0] != path[0], place.count("."), place))
    if elsewhere:
        return f"{line}; nearest valid key: '{elsewhere[0]}'"
    return f"{line}; valid keys here: {', '.join(keys)}"


def _places(key: str, model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[str]:
    """Where in the whole recipe a key of this name is valid."""
    for name in model.model_fields:
        if name == key:
            yield ".".join((*prefix, name))
        annotation = _annotation(model, name)
        first = ("0",) if get_origin(annotation) is tuple else ()
        for inner in groups_of(annotation):
            yield from _places(key, inner, (*prefix, name, *first))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
