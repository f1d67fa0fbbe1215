"""What keeps a cluster closed: token, probe for open endpoints, and versions without known holes."""

import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from kdcore.errors import ClusterError, MissingExtra

__all__ = ["Access", "check_endpoint", "check_versions", "old_versions", "read_token", "token_by_default"]

_SECONDS = 5.0
_MINIMUM = {
    "ray": ("2.55.0", "CVE-2026-41486: reading a Parquet file could run code of its author"),
    "torch": ("2.10", "CVE-2025-32434 and CVE-2026-24747: loading weights could run code of their author"),
    "pyarrow": ("14.0.1", "CVE-2023-47248: reading an Arrow file could run code of its author"),
    "datasets": ("4.0", "older ones run loading scripts that a dataset brings along"),
}


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def old_versions(installed: Callable[[str], str | None] = _installed) -> dict[str, str]:
    """What is installed below its safe minimum: package to the sentence that says so. Missing packages are fine."""
    found = {package: installed(package) for package in _MINIMUM}
    return {
        package: f"{package} {version} is older than {_MINIMUM[package][0]} ({_MINIMUM[package][1]}): "
        f"pip install '{package}>={_MINIMUM[package][0]}'"
        for package, version in found.items()
        if version is not None and _numbers(version) < _numbers(_MINIMUM[package][0])
    }


def _numbers(version: str) -> tuple[int, ...]:
    """Release numbers without trailing zeros: 2.55.0rc1+cpu is read as 2.55."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def check_versions(installed: Callable[[str], str | None] = _installed) -> None:
    """Raise MissingExtra when an installed package has a known hole that this project will not run with."""
    found = old_versions(installed)
    if found:
        raise MissingExtra("versions with known holes are refused: " + "; ".join(found.values()))


def token_by_default() -> None:
    """A cluster started here asks for a token, also with versions of Ray that do not by themselves."""
    import sys

    # Once Ray is imported it has read its settings: then its own default, token since 2.59, is left alone.
    if "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def read_token() -> str | None:
    """The cluster's token where Ray looks for it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token."""
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    if token:
        return token
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError as error:
        if named:
            raise ClusterError(
                f"RAY_AUTH_TOKEN_PATH names a token file that cannot be read: {error.strerror} '{named}'; "
                "put the head node's token there, or unset the variable"
            ) from error
        return None


@dataclass(frozen=True)
class Access:
    """How a Jobs API is asked: with which HTTP headers, and what its user should know first."""

    headers: Mapping[str, str]
    warning: str = ""


def _auth_headers() -> dict[str, str]:
    token = read_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def check_endpoint(address: str, allow_open: bool = False) -> Access:
    """Refuse a Jobs API that answers without a token, or that our token does not open.

    ClusterError for no answer, for an open cluster (a warning with `allow_open`) and for a wrong or missing token. The
    first question goes without the token, and one that answers it is never given the token.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise ClusterError(
            "--address is the head node's dashboard, http://HOST:8265 or https://HOST, without a name or password in "
            f"it, got one with scheme '{parts.scheme}' and host '{parts.hostname}'"
        )
    status = _status(address, {})
    if status == 200:
        # Empty, not missing: Ray's client puts the token that it finds into a missing one.
        return Access({"Authorization": ""}, _open(address, allow_open))
    if status not in (401, 403):
        raise ClusterError(
            f"'{address}' answers HTTP {status} where Ray's Jobs API is asked for: is --address the head node's "
            "dashboard (Ray's default port: 8265)?"
        )
    headers = _auth_headers()
    if not headers or _status(address, headers) in (401, 403):
        kind = "another token than the one found here" if headers else "a token, and none was found here"
        raise ClusterError(
            f"the cluster at '{address}' wants {kind}: put the head node's token in RAY_AUTH_TOKEN, in the file that "
            "RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
        )
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return Access(
            headers,
            f"the token travels to {parts.hostname} unencrypted: use https:// or an SSH tunnel to its loopback",
        )
    return Access(headers)


def _open(address: str, allowed: bool) -> str:
    what = f"the cluster at '{address}' answers without a token: whoever reaches it can run code there"
    if not allowed:
        raise ClusterError(
            f"{what}. Start it with RAY_AUTH_MODE=token and a token on every node, or, if its network holds only "
            "people you trust with all of it, pass --allow-open-cluster"
        )
    return f"WARNING: {what}; going on because of --allow-open-cluster"


class _Stay(urllib.request.HTTPRedirectHandler):
    """A token is given to the address that was named and to no other."""

    def redirect_request(self, *args: object, **kwargs: object) -> None:
        return None


def _status(address: str, headers: Mapping[str, str]) -> int:
    request = urllib.request.Request(f"{address.rstrip('/')}/api/jobs/", headers=dict(headers))
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=_SECONDS) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"'{address}' does not answer within {_SECONDS:g} s ({type(error).__name__}): is the head node's dashboard "
            "up, and its port open from here? (--address http://HOST:8265)"
        ) from error
