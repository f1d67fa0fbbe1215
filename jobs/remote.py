"""`kd status|stop|logs`: a job that was submitted to a cluster."""

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.common import command, say

if TYPE_CHECKING:
    from cluster.remote_jobs import RemoteJobs

__all__ = ["Address", "AllowOpen", "connect", "logs", "status", "stop", "write"]

Address = Annotated[str, typer.Option(help="The head node's dashboard, http://HOST:8265.")]
AllowOpen = Annotated[
    bool, typer.Option("--allow-open-cluster", help="Go on although the cluster asks nobody for a token.")
]
JobId = Annotated[str, typer.Argument(help="The id that `kd submit` printed.", metavar="ID")]


def connect(address: str, allow_open: bool) -> "RemoteJobs":
    """The jobs of the cluster there, after the probe of who else may reach them."""
    from cluster.security import check_endpoint, check_versions

    check_versions()
    access = check_endpoint(address, allow_open)
    if access.warning:
        typer.secho(access.warning, fg="red", err=True)
    from cluster.remote_jobs import RemoteJobs

    return RemoteJobs(address, access)


def write(text: str) -> None:
    """Log text as it comes, at once even into a pipe."""
    print(text, end="", flush=True)


@command
def status(job_id: JobId, address: Address, allow_open_cluster: AllowOpen = False) -> None:
    """Say what the cluster thinks of a job; only the manifest of its store proves that it is complete."""
    info = connect(address, allow_open_cluster).get(job_id)
    say(f"{job_id}: {info.status.value}" + (f" ({info.message})" if info.message else ""))


@command
def stop(job_id: JobId, address: Address, allow_open_cluster: AllowOpen = False) -> None:
    """Stop a job; what it published stays, and the same submission continues from there."""
    stopped, status = connect(address, allow_open_cluster).stop(job_id)
    say(f"{job_id}: {'asked to stop' if stopped else 'was not running'}, is {status} now")


@command
def logs(
    job_id: JobId,
    address: Address,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
    allow_open_cluster: AllowOpen = False,
) -> None:
    """Print a job's lines."""
    jobs = connect(address, allow_open_cluster)
    if follow:
        jobs.follow(job_id, write)
    else:
        write(jobs.logs(job_id))
