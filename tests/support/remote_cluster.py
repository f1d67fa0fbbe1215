"""A closed cluster of its own, `kd` from a copy of the tree, and a proxy that stands between the two."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support import tiny_teacher

TOKEN = "0123456789abcdef0123456789abcdef-of-a-test"
BIN = Path(sys.executable).parent
REPO = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _hear_interrupts() -> None:
    """As a process of a terminal does: one of a shell's background inherits that it ignores them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@dataclass
class Site:
    """A folder with documents, a teacher and a copy of the tree (so that edits meanwhile change no job's id)."""

    folder: Path
    head: str = ""
    ray: Path = Path()
    tree: Path = field(init=False)

    def __post_init__(self) -> None:
        self.tree = self.folder / "tree"
        for package in ("kdcore", "cluster", "jobs"):
            shutil.copytree(REPO / package, self.tree / package, ignore=shutil.ignore_patterns("__pycache__"))
        tiny_teacher.write_documents(self.folder / "docs", 6)
        tiny_teacher.write_teacher(self.folder / "teacher")

    def environment(self, token: str | None = TOKEN) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        kept |= {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(self.folder), "OMP_NUM_THREADS": "1"}
        kept |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONPATH": str(self.tree)}
        if token:
            path = self.folder / f"token-{len(token)}"
            path.write_text(token)
            kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
        return kept

    def recipe(self, name: str, **changes: Any) -> str:
        """A recipe file of the tiny teacher for one replica; its path."""
        settings = {"replicas": 1, "cpus_per_replica": 0.5, "workers": 1}
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(tiny_teacher.recipe(self.folder, name, **{"cluster": settings, **changes})))
        return str(path)

    def store(self, name: str) -> Path:
        return self.folder / "runs" / name / "labels"

    def start(self, *arguments: str, token: str | None = TOKEN, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.main", *arguments], cwd=self.tree, env=self.environment(token), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_hear_interrupts, **options,
        )  # fmt: skip

    def kd(self, *arguments: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, token=token)
        out, err = process.communicate(timeout=500)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def jobs(self) -> dict[str, dict[str, Any]]:
        """What the cluster knows of its jobs, by id."""
        return {job["submission_id"]: job for job in self._ask("jobs/") if job["submission_id"]}

    def jobs_of(self, name: str) -> dict[str, str]:
        """Status by id of the jobs of one recipe."""
        return {key: job["status"] for key, job in self.jobs().items() if (job["metadata"] or {}).get("recipe") == name}

    def wait_for(self, done: Callable[[], bool], what: str, seconds: float = 200) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, what
            time.sleep(0.2)

    def living(self) -> list[str]:
        """Actors, and reservations for them, that the cluster has besides the supervisors of jobs."""
        actors = self._ask("v0/actors?limit=10000&detail=1")["data"]["result"]["result"]
        groups = self._ask("v0/placement_groups?limit=10000")["data"]["result"]["result"]
        alive = [actor["class_name"] for actor in actors if actor["state"] != "DEAD"]
        return [name for name in alive if name != "JobSupervisor"] + [
            group["placement_group_id"] for group in groups if group["state"] != "REMOVED"
        ]

    def _ask(self, path: str) -> Any:
        """The dashboard's answer, without any code of ours or Ray's."""
        request = urllib.request.Request(f"{self.head}/api/{path}", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)


@contextmanager
def closed_cluster(folder: Path, cpus: int = 2) -> Iterator[Site]:
    """A head node that asks for a token, in `folder`; only its processes are ended."""
    site = Site(folder)
    port, dashboard = free_port(), free_port()
    site.ray = Path(tempfile.mkdtemp(prefix="kd-ray-"))  # its sockets' names must be short
    log = (folder / "head.log").open("w")
    process = subprocess.Popen(
        [str(BIN / "ray"), "start", "--head", "--block", f"--port={port}", "--node-ip-address=127.0.0.1",
         "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
         f"--dashboard-agent-listen-port={free_port()}", "--ray-client-server-port", str(free_port()),
         f"--temp-dir={site.ray}", f"--num-cpus={cpus}", "--object-store-memory=80000000", "--disable-usage-stats"],
        env=site.environment(), stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    site.head = f"http://127.0.0.1:{dashboard}"
    try:
        site.wait_for(lambda: process.poll() is not None or _answers(site), "the head did not come up")
        assert process.poll() is None, (folder / "head.log").read_text()
        yield site
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(site.ray, ignore_errors=True)


def _answers(site: Site) -> bool:
    try:
        site.jobs()
    except OSError:
        return False
    return True
