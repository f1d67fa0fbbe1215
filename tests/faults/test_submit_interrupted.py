"""`kd submit` killed at every point: the job is there whole or not at all, and the same command completes it."""

import contextlib
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.http_proxy import proxied
from tests.support.remote_cluster import Site, closed_cluster

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

KILL, INTERRUPT = signal.SIGKILL, signal.SIGINT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with closed_cluster(tmp_path_factory.mktemp("interrupted")) as site:
        yield site


def is_upload(method: str, path: str) -> bool:
    return method == "PUT" and path.startswith("/api/packages/")


def is_submission(method: str, path: str) -> bool:
    return method == "POST" and path == "/api/jobs/"


def is_following(method: str, path: str) -> bool:
    return path.endswith("/logs/tail")


POINTS = {
    "during an upload": ("within", is_upload, False),
    "before the last request": ("before", is_submission, False),
    "within the last request": ("within", is_submission, False),
    "before its answer": ("after", is_submission, True),
    "while following": ("after", is_following, True),
}


@pytest.mark.parametrize(
    ("point", "sent"),
    [(point, INTERRUPT if point == "during an upload" else KILL) for point in POINTS],
)
def test_an_interrupted_submission_leaves_a_whole_job_or_none(point: str, sent: signal.Signals, site: Site) -> None:
    when, is_here, is_there = POINTS[point]
    name = f"{point.replace(' ', '-')}-{sent.name.lower()}"
    recipe, running = site.recipe(name), list[subprocess.Popen[str]]()

    def hook(now: str, method: str, path: str) -> bool:
        if now != when or not is_here(method, path):
            return True
        # One Ctrl-C can fall into a callback whose exceptions Python drops; a person presses it again.
        for _ in range(3):
            running[0].send_signal(sent)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running[0].wait(25)
                break
        return False

    with proxied(site.head, hook) as proxy:
        running.append(site.start("submit", "precompute", recipe, "--address", proxy, "--follow"))
        out, err = running[0].communicate(timeout=200)
    assert running[0].returncode == (-KILL if sent == KILL else 130), out + err
    assert len(site.jobs_of(name)) == is_there
    assert not (site.store(name) / "manifest.json").exists() or is_there

    again = site.kd("submit", "precompute", recipe, "--address", site.head, "--follow")
    assert again.returncode == 0, again.stdout + again.stderr
    assert ("already there: " if is_there else "submitted: ") in again.stdout
    assert list(site.jobs_of(name).values()) == ["SUCCEEDED"]
    assert (site.store(name) / "manifest.json").exists()
