"""Jobs on a cluster that runs already: Ray's Jobs API, asked in such a way that asking twice does no harm."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.connect import code_paths, import_ray
from cluster.security import Access
from kdcore.errors import ClusterError

__all__ = ["RemoteJobs"]

_ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_EXCLUDES = ["**/__pycache__", "*.pyc"]
_POLL_SECONDS = 1.0
_CHATTY = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


@contextmanager
def _only_this_address() -> Iterator[None]:
    # Ray lets these variables win over the address it is given, which would take the token elsewhere.
    kept = {name: os.environ.pop(name) for name in _OVERRIDING if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


class RemoteJobs:
    """The jobs of one cluster, by the address of its dashboard."""

    def __init__(self, address: str, access: Access) -> None:
        import_ray()
        from ray.job_submission import JobSubmissionClient

        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
        with _only_this_address(), _refusals(address):
            self._client = JobSubmissionClient(address, headers=dict(access.headers))
        self.address = address

    def find(self, job_id: str) -> Any | None:
        """What the cluster knows of a job; None when it knows nothing."""
        try:
            with _refusals(self.address):
                return self._client.get_job_info(job_id)
        except ClusterError as error:
            if "status code 404" in str(error.__cause__):
                return None
            raise

    def get(self, job_id: str) -> Any:
        """As `find`, but ClusterError when there is no such job."""
        found = self.find(job_id)
        if found is None:
            raise ClusterError(
                f"the cluster at '{self.address}' knows no job '{job_id}': `kd submit` printed its id; a cluster that "
                "was restarted has forgotten its jobs"
            )
        return found

    def submit(
        self,
        base_id: str,
        entrypoint: str,
        folder: Path,
        metadata: dict[str, str],
        is_complete: Callable[[], bool] = lambda: False,
    ) -> tuple[str, bool]:
        """Start the job unless it is there: its id, and whether it was started now.

        A job that failed, was stopped, or succeeded while what it makes is not complete (any more) is started again as
        BASE-2, BASE-3 and so on. Nothing runs before the last of the requests, so that an interrupted submission leaves
        at most an uploaded package.
        """
        attempt = 1
        while True:
            job_id = base_id if attempt == 1 else f"{base_id}-{attempt}"
            found = self.find(job_id)
            if found is None:
                try:
                    self._start(job_id, entrypoint, folder, metadata)
                    return job_id, True
                except ClusterError:
                    # Another submission may have won, or only the answer was lost: the cluster knows.
                    if self.find(job_id) is None:
                        raise
                    return job_id, False
            status = str(found.status.value)
            if status not in _ENDED or (status == "SUCCEEDED" and is_complete()):
                return job_id, False
            attempt += 1

    def _start(self, job_id: str, entrypoint: str, folder: Path, metadata: dict[str, str]) -> None:
        environment = {
            "working_dir": str(folder),
            "py_modules": [str(path) for path in code_paths()],
            "excludes": _EXCLUDES,
        }
        with _refusals(self.address):
            self._client.submit_job(
                entrypoint=entrypoint, submission_id=job_id, runtime_env=environment, metadata=metadata
            )

    def stop(self, job_id: str, seconds: float = 60.0) -> tuple[bool, str]:
        """Stop a job and wait for its end, at most `seconds`: whether it was running, and its status now."""
        self.get(job_id)
        with _refusals(self.address):
            stopped = self._client.stop_job(job_id)
        deadline = time.monotonic() + seconds
        while (status := str(self.get(job_id).status.value)) not in _ENDED and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return stopped, status

    def logs(self, job_id: str) -> str:
        """All lines of a job so far."""
        self.get(job_id)
        with _refusals(self.address):
            return self._client.get_job_logs(job_id)

    def follow(self, job_id: str, write: Callable[[str], None]) -> Any:
        """Hand on the job's lines until it ends, once each even over lost connections; returns what it ended as."""
        seen = 0
        while True:
            info = self.get(job_id)
            ended = info.status.value in _ENDED
            if ended:
                text = self.logs(job_id)
                write(text[seen:])
                return info
            seen = asyncio.run(self._tail(job_id, seen, write))
            time.sleep(_POLL_SECONDS)

    async def _tail(self, job_id: str, seen: int, write: Callable[[str], None]) -> int:
        """Write what comes after the first `seen` characters; returns how many there were when the stream ended."""
        import aiohttp

        place = 0
        try:
            async for text in self._client.tail_job_logs(job_id):
                write(text[max(0, seen - place) :])
                place += len(text)
                seen = max(seen, place)
        except (RuntimeError, OSError, aiohttp.ClientError):
            pass  # a lost connection: `follow` asks the job's state and comes back
        return seen


@contextmanager
def _refusals(address: str) -> Iterator[None]:
    """Ray's client raises RuntimeErrors and those of its HTTP library; a user gets one kind."""
    try:
        yield
    except ClusterError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or ["no message"]
        raise ClusterError(
            f"the Jobs API at '{address}' refused or did not answer ({type(error).__name__}: {lines[0][:300]}); is the "
            "cluster up, with this version of Ray, and its token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH?"
        ) from error
