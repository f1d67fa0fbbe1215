"""Where the actors run and what each of them takes."""

from pydantic import Field

from kdcore.config.base import Settings


class ClusterConfig(Settings):
    """Where the actors run and what each of them takes."""

    address: str = Field(default="local", description="`local` starts a cluster here; `auto` or HOST:PORT joins one")
    replicas: int = Field(default=2, ge=1, description="teacher actors")
    cpus_per_replica: float = Field(default=1, ge=0)
    gpus_per_replica: float = Field(default=0, ge=0)
    workers: int = Field(default=2, ge=1, description="student ranks")
    cpus_per_worker: float = Field(default=1, ge=0)
    gpus_per_worker: float = Field(default=0, ge=0)
    max_failures: int = Field(default=0, ge=0, description="restarts of the student's workers")
    resource_deadline_seconds: float = Field(default=10, gt=0, description="how long to wait for missing resources")
    dashboard: bool = Field(default=False, description="Ray dashboard on loopback (a cluster started here)")
