"""Which settings are paths: each is marked where it is declared (`IsPath`), and found here, wherever it stands."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from kdcore.config.base import IsPath

__all__ = ["PathSetting", "groups_of", "path_settings"]


@dataclass(frozen=True)
class PathSetting:
    """A setting by its keys from the root of a recipe, and what its mark says."""

    keys: tuple[str, ...]
    mark: IsPath

    @property
    def dotted(self) -> str:
        """As a person writes it."""
        return ".".join(self.keys)

    def values(self, tree: Any) -> list[str]:
        """Its paths in nested dictionaries and lists of them: none, one, or several."""
        found = [group.get(self.keys[-1]) for group in self._groups(tree)]
        items = [item for value in found for item in (value if isinstance(value, list | tuple) else [value])]
        return [item for item in items if isinstance(item, str)]

    def change(self, tree: Any, function: Callable[[str], str]) -> None:
        """Put `function` of each of its paths in its place."""
        for group in self._groups(tree):
            value = group.get(self.keys[-1])
            if isinstance(value, list | tuple):
                group[self.keys[-1]] = [function(item) if isinstance(item, str) else item for item in value]
            elif isinstance(value, str):
                group[self.keys[-1]] = function(value)

    def _groups(self, tree: Any) -> list[dict[str, Any]]:
        """The dictionaries that it stands in, if it is a path there."""
        nodes = [tree]
        for key in self.keys[:-1]:
            found = [node.get(key) for node in nodes if isinstance(node, dict)]
            nodes = [item for value in found for item in (value if isinstance(value, list | tuple) else [value])]
        groups = [node for node in nodes if isinstance(node, dict)]
        where = self.mark.where
        return groups if where is None else [node for node in groups if node.get(where[0]) == where[1]]


@cache
def path_settings(model: type[BaseModel]) -> tuple[PathSetting, ...]:
    """Every setting of `model` and of its groups that is marked as a path, in their order.

    A key that several types of a group have is one setting, which may be a URL if it may be one for any of them.
    """
    found: dict[tuple[str, ...], IsPath] = {}
    for keys, mark in _marked(model, ()):
        before = found.get(keys, mark)
        found[keys] = replace(mark, url=mark.url or before.url)
    return tuple(PathSetting(keys, mark) for keys, mark in found.items())


def groups_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """Every settings group that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from groups_of(argument)


def _marked(model: type[BaseModel], prefix: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], IsPath]]:
    for name, field in model.model_fields.items():
        for mark in field.metadata:
            if isinstance(mark, IsPath):
                yield (*prefix, name), mark
        for group in groups_of(field.annotation):
            yield from _marked(group, (*prefix, name))
