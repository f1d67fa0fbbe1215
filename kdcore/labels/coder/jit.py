"""Compilation by numba, kept beside the file or in the user's cache, or made anew where neither can be written."""

from collections.abc import Callable
from typing import Any

import numba

__all__ = ["jit"]


def jit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A decorator; `options` are those of numba's njit."""

    def compile_(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, nogil=True, **options)(function)
        except RuntimeError:  # numba found no folder for its cache: read-only packages, no home
            return numba.njit(nogil=True, **options)(function)

    return compile_
