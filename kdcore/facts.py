"""Small facts for people and files to compare, without numpy or torch: nested values by name, versions of packages."""

from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any

__all__ = ["flatten", "package_versions"]

_PACKAGES = ("kdcore", "numpy", "pyarrow", "torch", "transformers", "tokenizers", "timm", "torchvision")


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted path; an empty mapping is a leaf."""
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    result: dict[str, Any] = {}
    for key, item in value.items():
        result.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return result


def package_versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Versions of the packages that are installed (default: those that labels hang on); the others are left out."""
    versions: dict[str, str] = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
