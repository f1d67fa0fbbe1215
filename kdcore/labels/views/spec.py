"""What the views of a corpus are: the policy that draws them, and the pixels that they become."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pydantic import ValidationError

from kdcore.config.views import ViewPolicy
from kdcore.errors import CorruptShard
from kdcore.identity import canonical_json

__all__ = ["ViewSpec"]

_FIELDS = {"policy", "size", "mean", "std"}


@dataclass(frozen=True)
class ViewSpec:
    """A policy, the side of the rendered square, and what normalises it, a value a channel.

    Two stores, or a store and a recipe, mean the same pixels by the same parameters only where all four are equal.
    """

    policy: ViewPolicy
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def per_image(self) -> int:
        """Labelled views of each image."""
        return self.policy.per_image

    def to_json(self) -> dict[str, Any]:
        """As identities and shards have it; what the policy does not name is left out."""
        policy = self.policy.model_dump(mode="json", exclude_none=True)
        return {"policy": policy, "size": self.size, "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: Any, where: str) -> "ViewSpec":
        """What `to_json` gave; CorruptShard for anything else."""
        try:
            return _parsed(canonical_json(value))
        except (ValueError, TypeError, KeyError) as error:
            reason = f"{error.error_count()} settings are wrong" if isinstance(error, ValidationError) else str(error)
            raise CorruptShard(f"`views` of {where} must say how views are drawn and rendered: {reason}") from error


@lru_cache(maxsize=64)
def _parsed(text: str) -> ViewSpec:
    value = json.loads(text)
    if not isinstance(value, Mapping) or set(value) != _FIELDS:
        raise ValueError(f"the fields {sorted(_FIELDS)} are needed, there is {str(value)[:80]}")
    size, mean, std = value["size"], value["mean"], value["std"]
    if type(size) is not int or size < 1 or not _numbers(mean) or not _numbers(std) or len(mean) != len(std):
        raise ValueError(f"size {size!r}, mean {mean!r} and std {std!r} are no side and no numbers of each channel")
    return ViewSpec(ViewPolicy.model_validate(value["policy"]), size, tuple(mean), tuple(std))


def _numbers(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(type(value) in (int, float) for value in values)
