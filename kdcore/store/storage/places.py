"""From a path or URL to the place where a store lives."""

import os
from pathlib import Path

from kdcore.config.urls import check_url, is_url
from kdcore.errors import ConfigError, StoreError
from kdcore.store.storage.local import LocalPlace
from kdcore.store.storage.place import Place
from kdcore.store.storage.remote import RemotePlace

__all__ = ["Location", "Place", "open_place"]

Location = str | Path | Place
"""A directory, a URL such as s3://bucket/prefix, or a place already opened."""


def open_place(path: Location) -> Place:
    """The place of a store; nothing is read or made yet.

    StoreError for a malformed URL, for one that embeds credentials and for an unknown scheme; MissingExtra when the
    package of its scheme is not installed.
    """
    if isinstance(path, Place):
        return path
    text = os.fspath(path)
    if not is_url(text):
        return LocalPlace(Path(text))
    try:
        scheme, inner = check_url(text)
        return LocalPlace(Path(f"/{inner}")) if scheme in ("file", "local") else RemotePlace(scheme, inner)
    except ConfigError as error:
        raise StoreError(str(error)) from None
