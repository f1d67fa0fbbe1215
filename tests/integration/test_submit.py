"""A job submitted to a real, closed cluster: followed to its manifest, submitted twice, refused without its token."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_teacher
import yaml

TOKEN = "0123456789abcdef0123456789abcdef-of-a-test"
BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def environment(folder: Path, token: str | None = TOKEN) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    kept |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    kept["RAY_USAGE_STATS_ENABLED"] = "0"
    if token:
        path = folder / f"token-{len(token)}"
        path.write_text(token)
        kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    return kept


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """The dashboard's address of a cluster of its own, with a token; only its processes are ended."""
    port, dashboard = free_port(), free_port()
    log = (tmp_path / "head.log").open("w")
    process = subprocess.Popen(
        [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1",
         "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
         f"--dashboard-agent-listen-port={free_port()}", "--ray-client-server-port", str(free_port()),
         "--num-cpus=2", "--object-store-memory=80000000", "--disable-usage-stats"],
        env=environment(tmp_path), stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(240):
            if process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", dashboard), timeout=1).close()
                break
            except OSError:
                time.sleep(0.25)
        else:
            pytest.fail((tmp_path / "head.log").read_text())
        assert process.poll() is None, (tmp_path / "head.log").read_text()
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def kd(folder: Path, *arguments: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.main", *arguments],
        env=environment(folder, token), capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def test_a_job_is_followed_to_its_manifest_and_its_token_stays_home(tmp_path: Path, head: str) -> None:
    tiny_teacher.write_documents(tmp_path / "docs", 3)
    tiny_teacher.write_teacher(tmp_path / "teacher")
    recipe = tmp_path / "recipe.yaml"
    settings = {"replicas": 1, "cpus_per_replica": 0.5}
    recipe.write_text(yaml.safe_dump(tiny_teacher.recipe(tmp_path, "far", cluster=settings)))
    submit = ("submit", "precompute", str(recipe), "--address", head)

    wrong = kd(tmp_path, *submit, token="another token")
    assert wrong.returncode == 2
    assert "another token" in wrong.stderr
    assert "RAY_AUTH_TOKEN" in wrong.stderr
    missing = kd(tmp_path, *submit, token=None)
    assert missing.returncode == 2
    assert "none was found here" in missing.stderr

    first = kd(tmp_path, *submit, "--follow")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "complete: " in first.stdout, first.stdout + first.stderr
    assert (tmp_path / "runs" / "far" / "labels" / "manifest.json").exists()
    job_id = first.stdout.split("submitted: ")[1].split()[0]

    second = kd(tmp_path, *submit, "--follow")
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"already there: {job_id} is SUCCEEDED" in second.stdout

    status = kd(tmp_path, "status", job_id, "--address", head)
    assert "SUCCEEDED" in status.stdout
    logs = kd(tmp_path, "logs", job_id, "--address", head)
    assert "labels: " in logs.stdout
    unknown = kd(tmp_path, "status", "kd-nothing", "--address", head)
    assert unknown.returncode == 2
    assert "knows no job" in unknown.stderr

    told = "".join(done.stdout + done.stderr for done in (wrong, first, second, status, logs, unknown))
    assert TOKEN not in told + _everything_known(tmp_path, head)
    holders = [
        path for path in (tmp_path / "runs").rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()
    ]
    assert holders == []


def _everything_known(folder: Path, head: str) -> str:
    script = (
        "import sys\nfrom ray.job_submission import JobSubmissionClient\n"
        "print([dict(job) for job in JobSubmissionClient(sys.argv[1]).list_jobs()])"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, head], env=environment(folder), capture_output=True, text=True, check=True
    )
    assert "kd-precompute-far" in found.stdout
    return found.stdout + found.stderr
