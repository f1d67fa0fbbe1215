"""The compiled route, where numba is installed; the same words and labels as numpy's, many times faster."""

from functools import cache
from types import ModuleType

__all__ = ["compiled"]


@cache
def compiled() -> ModuleType | None:
    """The module of compiled loops, or None without numba (extra `fast`)."""
    try:
        from kdcore.labels.coder import loops
    except ImportError:
        return None
    return loops
