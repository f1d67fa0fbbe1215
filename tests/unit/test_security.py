"""Closed clusters and safe versions: what is refused, and that a refusal says how to go on."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cluster.security import check_endpoint, check_versions, old_versions
from kdcore.errors import ClusterError, MissingExtra


class Dashboard(BaseHTTPRequestHandler):
    token: str | None = None
    given: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        self.given.append(given)
        status = (
            200 if self.token is None else 401 if given is None else 200 if given == f"Bearer {self.token}" else 403
        )
        self.send_response(status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    server = HTTPServer(("127.0.0.1", 0), Dashboard)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_an_open_cluster_is_refused_unless_allowed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dashboard, "token", None)
    with pytest.raises(ClusterError, match="--allow-open-cluster"):
        check_endpoint(address)
    assert check_endpoint(address, allow_open=True).warning.startswith("WARNING")


def test_an_open_cluster_is_never_given_the_token(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dashboard, "token", None)
    monkeypatch.setattr(Dashboard, "given", [])
    monkeypatch.setenv("RAY_AUTH_TOKEN", "stays-here")
    access = check_endpoint(address, allow_open=True)
    assert Dashboard.given == [None]
    # Not {}: with a token at hand Ray's own client would add it.
    assert access.headers == {"Authorization": ""}


def test_a_token_opens_a_closed_cluster(address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Dashboard, "token", "right")
    with pytest.raises(ClusterError, match="none was found here"):
        check_endpoint(address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret-but-wrong")
    with pytest.raises(ClusterError, match="another token") as refused:
        check_endpoint(address)
    assert "secret-but-wrong" not in str(refused.value)
    (tmp_path / "token").write_text("right\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    access = check_endpoint(address)
    assert access.headers == {"Authorization": "Bearer right"}
    assert not access.warning


@pytest.mark.parametrize("wrong", ["auto", "127.0.0.1:8265", "http://me:secret@host:8265"])
def test_an_address_is_a_dashboard(wrong: str) -> None:
    with pytest.raises(ClusterError, match="http://HOST:8265") as refused:
        check_endpoint(wrong)
    assert "secret" not in str(refused.value)


def test_versions_with_known_holes_are_refused() -> None:
    installed = {"ray": "2.54.1", "torch": "2.10.0+cpu", "pyarrow": "14.0.1", "datasets": None}.get
    assert list(old_versions(installed)) == ["ray"]
    with pytest.raises(MissingExtra, match=r"ray 2\.54\.1.*CVE-2026-41486"):
        check_versions(installed)
    assert old_versions({"ray": "2.55.0", "torch": "2.9.1", "pyarrow": "14.0.0", "datasets": "4.0.0"}.get).keys() == {
        "torch",
        "pyarrow",
    }
    check_versions()
