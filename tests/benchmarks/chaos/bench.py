"""Everything that runs share, made and unmade: documents, teacher, a small disk, a cluster, perhaps a bucket."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks.chaos import material
from tests.benchmarks.chaos.cluster import HERE, Cluster, Host, ray_environment
from tests.benchmarks.chaos.run import Bench
from tests.support import s3_server
from tests.support.processes import adopt_orphans
from tests.support.s3_front import front

__all__ = ["BUCKET", "can_mount", "open_bench"]

BUCKET = "chaos"
_MOUNT = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs"]


def can_mount() -> bool:
    """Whether a small disk can be made here: for root, where mounts are allowed."""
    if os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as folder:
        made = subprocess.run([*_MOUNT, folder], capture_output=True, check=False).returncode == 0
        return made and subprocess.run(["umount", folder], check=False).returncode == 0


@contextmanager
def open_bench(
    folder: Path,
    documents: int,
    seed: int = 0,
    bucket: bool = False,
    disk: bool = False,
    hosts: Sequence[Host] = (HERE,),
) -> Iterator[Bench]:
    """A bench in `folder` (a short path); `disk`: runs lie on a disk of 64 MB; `bucket`: there is an S3 server too.

    The head runs on the first of `hosts`, and a worker for every replica on them in turn.
    """
    adopt_orphans()
    material.write_documents(folder / "docs", documents)
    material.write_teacher(folder / "teacher")
    environment = ray_environment(folder)
    with ExitStack() as stack:
        (folder / "disk").mkdir()
        if disk:
            subprocess.run([*_MOUNT, str(folder / "disk")], check=True)
            stack.callback(subprocess.run, ["umount", "-l", str(folder / "disk")], check=True)
        control = None
        if bucket:
            port = stack.enter_context(s3_server.s3_server())
            front_port, control = stack.enter_context(front(port, seed))
            environment |= s3_server.environment(front_port, folder / "cache")
            _make_bucket(stack, s3_server.environment(port, folder / "cache"))
        cluster = Cluster(folder, environment, hosts)
        stack.callback(cluster.stop)
        bench = Bench(folder, cluster, control)
        for number in range(bench.replicas):
            cluster.add_worker(hosts[number % len(hosts)])
        yield bench


def _make_bucket(stack: ExitStack, environment: dict[str, str]) -> None:
    """The bucket; this process looks at it past the front until the bench is closed."""
    import s3fs

    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    stack.callback(_restore, before)
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(BUCKET)


def _restore(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
