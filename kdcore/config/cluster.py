"""Where the actors run and what each of them takes."""

from typing import Any

from pydantic import Field, model_validator

from kdcore.config.base import Settings


class Replicas(Settings):
    """How many teacher replicas: `N`, or `{min: A, max: B}`: at least A at the start, up to B as there is room."""

    min: int = Field(ge=1, description="must have room at the start")
    max: int = Field(description="as many as find room while there are units for them")

    @model_validator(mode="before")
    @classmethod
    def _one_number(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"min": value, "max": value}
        if not isinstance(value, dict | Replicas):
            raise ValueError("give a whole number of replicas, or {min: A, max: B}")
        return value

    @model_validator(mode="after")
    def _in_order(self) -> "Replicas":
        if self.max < self.min:
            raise ValueError(f"max must be at least min, got min {self.min} and max {self.max}")
        return self


class ClusterConfig(Settings):
    """Where the actors run and what each of them takes.

    A replica is one process, or teacher.tensor_parallel of them: cpus_per_replica and gpus_per_replica hold for each.
    """

    address: str = Field(default="local", description="`local` starts a cluster here; `auto` or HOST:PORT joins one")
    replicas: Replicas = Field(default=Replicas(min=2, max=2), description="teacher replicas: N, or {min: A, max: B}")
    cpus_per_replica: float = Field(default=1, ge=0, description="of each process of a replica")
    gpus_per_replica: float = Field(
        default=0,
        ge=0,
        description="of each process of a replica; 0: none is kept, one that it sees is used",
    )
    rank_timeout_seconds: float = Field(
        default=600, gt=0, description="how long the processes of a split teacher wait for one another"
    )
    workers: int = Field(default=2, ge=1, description="student ranks")
    cpus_per_worker: float = Field(default=1, ge=0, description="of each student rank")
    gpus_per_worker: float = Field(default=0, ge=0, description="of each student rank; 0: it trains on the CPU")
    max_failures: int = Field(default=0, ge=0, description="restarts of the student's workers")
    resource_deadline_seconds: float = Field(default=10, gt=0, description="how long to wait for missing resources")
    starved_seconds: float = Field(
        default=600, gt=0, description="a labelling run that had room for no replica for so long ends"
    )
    load_seconds: float = Field(
        default=3600,
        gt=0,
        description="a replica that has not loaded its teacher (or made its probe) by then is replaced",
    )
    notice_seconds: float = Field(
        default=30, gt=0, description="how long a process lives on after SIGTERM, as the cluster manager has it"
    )
    dashboard: bool = Field(default=False, description="Ray dashboard on loopback (a cluster started here)")
