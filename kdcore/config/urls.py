"""Is it a path or a URL? Label stores and input data may live at a URL, and a URL of ours never carries a secret."""

import re

from kdcore.errors import ConfigError

__all__ = ["check_url", "is_url", "readable_places"]

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)


def is_url(path: str) -> bool:
    """Whether `path` is a URL, well formed or not, rather than a name in the file system."""
    return "://" in path


def check_url(url: str, setting: str = "labels.path") -> tuple[str, str]:
    """Scheme and path of SCHEME://BUCKET/PREFIX; ConfigError when it is malformed or embeds credentials.

    The message names the `setting` and never repeats the URL: what makes it wrong may be a secret.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise ConfigError(
            f"a URL here is SCHEME://BUCKET/PREFIX, such as s3://bucket/prefix, and no more: set {setting} so"
        )
    scheme, rest = match.groups()
    if "@" in rest or "?" in rest or "#" in rest or "://" in rest or "::" in rest:
        raise ConfigError(
            f"a URL here is {scheme}://BUCKET/PREFIX and nothing else, this one has credentials or options in it "
            f"('@', '?', '#' or '::'). Give credentials as the storage's own tools take them, in the environment or "
            f"in their file, and set {setting} to bucket and prefix alone"
        )
    parts = rest.strip("/").split("/")
    if not all(parts) or ".." in parts or "." in parts:
        raise ConfigError(f"a URL here is {scheme}://BUCKET/PREFIX without empty parts, '.' or '..'; set {setting} so")
    return scheme, "/".join(parts)


def readable_places(value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    """Paths and URLs of input data, `file:///folder` as the path it is. ValueError for what is no place of files."""
    if value is None or isinstance(value, str):
        return value and _readable(value)
    return tuple(map(_readable, value))


def _readable(place: str) -> str:
    scheme, _, rest = place.partition("://")
    if scheme in ("file", "local") and rest:
        if not rest.startswith("/"):
            raise ValueError(f"{scheme}:// is followed by an absolute path, such as file:///corpus/*; got '{place}'")
        return rest
    if scheme in ("http", "https") and rest:
        raise ValueError(
            f"{scheme}:// has no folders to list: copy the files to a disk or a bucket, and give a path or a URL "
            "such as s3://bucket/corpus/*.jsonl"
        )
    return place
