"""The filesystems of fsspec, for label stores and for input data: made once a process, their failures in our words.

Nothing here holds a credential: fsspec and the storage's own library take them from the environment or their files.
What an error says of them is cut out.
"""

import contextlib
import functools
import os
import re
from collections.abc import Mapping
from typing import Any

from kdcore.errors import ConfigError, missing_extra

__all__ = ["CONFLICT", "error_code", "filesystem", "is_passing", "reason", "storage_errors"]

CONFLICT = frozenset({"ConditionalRequestConflict", "409"})
"""S3's answers to a conditional put whose name another is just taking."""

_PASSING = frozenset({"InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "OperationAborted"})
_TOO_MANY, _NOT_IMPLEMENTED = 429, 501
_filesystems: dict[tuple[str, int, int], Any] = {}


def filesystem(scheme: str, setting: str) -> Any:
    """A filesystem of this process alone: settings of it are not those of a caller that asks fsspec for one too.

    One for each environment, since it reads endpoint and credentials from there, once. Raises ConfigError, naming the
    `setting` with the URL, for a scheme that fsspec does not know; MissingExtra where its package is not installed.
    """
    environment = frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))
    key = (scheme, os.getpid(), hash(environment))
    # Without a lock, which a fork could copy while it is held; of two made at once, one is kept.
    return _filesystems.get(key) or _filesystems.setdefault(key, _new_filesystem(scheme, setting))


def _new_filesystem(scheme: str, setting: str) -> Any:
    import fsspec

    try:
        made = fsspec.filesystem(scheme, skip_instance_cache=True)
    except ImportError:
        package = "s3fs" if scheme in ("s3", "s3a") else f"the fsspec package of '{scheme}'"
        raise missing_extra(package, "s3", f"{setting} at {scheme}://") from None
    except ValueError as error:
        raise ConfigError(
            f"{setting} is a local path or a URL such as s3://bucket/prefix, got {scheme}://: {error}"
        ) from error
    if hasattr(made, "retries"):
        # The client below asks again too, and the two multiply: giving up on a dead storage would take minutes.
        made.retries = 2
    return made


def storage_errors() -> tuple[type[Exception], ...]:
    """What fsspec and the libraries below it raise."""
    kinds: list[type[Exception]] = [OSError, TimeoutError, NotImplementedError]
    with contextlib.suppress(ImportError):
        from botocore.exceptions import BotoCoreError, ClientError

        kinds += [BotoCoreError, ClientError]
    with contextlib.suppress(ImportError):
        from aiohttp import ClientError as ConnectionLost

        kinds.append(ConnectionLost)
    return tuple(kinds)


def _response(error: BaseException) -> Mapping[str, Any]:
    """The storage's answer that an error tells of, {} where there was none."""
    found = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    return found if isinstance(found, Mapping) else {}


def error_code(error: BaseException) -> str:
    """The storage's own code of an error, '' where it has none."""
    return str(_response(error).get("Error", {}).get("Code", ""))


def is_passing(error: BaseException) -> bool:
    """Whether the same may work a moment later: no answer, a lost connection, a storage that says it cannot now."""
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if isinstance(status, int) and (status == _TOO_MANY or (status >= 500 and status != _NOT_IMPLEMENTED)):
        return True
    return error_code(error) in _PASSING | CONFLICT or isinstance(error, _connection_errors())


@functools.cache
def _connection_errors() -> tuple[type[BaseException], ...]:
    kinds: list[type[BaseException]] = [TimeoutError, ConnectionError]
    with contextlib.suppress(ImportError):
        from botocore import exceptions as boto

        kinds += [boto.ConnectionError, boto.HTTPClientError, boto.ResponseStreamingError, boto.IncompleteReadError]
    with contextlib.suppress(ImportError):
        from aiohttp import ClientConnectionError, ClientPayloadError

        kinds += [ClientConnectionError, ClientPayloadError]
    return tuple(kinds)


def reason(error: BaseException) -> str:
    """Kind and first words of an error, without what may be a secret."""
    text = re.sub(r"//[^/@\s]*@", "//", f"{type(error).__name__}: {error}")
    secrets_known = [
        os.environ.get(name) for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
    ]
    for secret in secrets_known:
        if secret:
            text = text.replace(secret, "(credential)")
    return text[:300]
