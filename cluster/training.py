"""Students on Ray Train workers: one worker a rank, the loop itself is kdcore's."""

from collections.abc import Sequence
from typing import Any

from cluster.connect import cluster_session, import_ray
from cluster.paths import absolute_paths
from cluster.placement import bundle, worker_bundles
from cluster.preflight import require
from cluster.workers import set_threads
from kdcore.config import ClusterConfig, Recipe
from kdcore.errors import KDError, TrainingError
from kdcore.training.arms import Arm

__all__ = ["fit_on_ray"]

Results = dict[str, dict[str, Any]]


def fit_on_ray(recipe: Recipe, arms: Sequence[Arm]) -> Results:
    """Train `arms` on `cluster.workers` ranks; returns each arm's result.

    Raises ResourceError when the cluster cannot hold the workers, the KDError of a worker as it was raised there, and
    TrainingError when workers died or raised anything else (after cluster.max_failures restarts).
    """
    recipe = absolute_paths(recipe)
    config = recipe.cluster
    with cluster_session(config):
        require(worker_bundles(config), config.resource_deadline_seconds, "cluster.workers")
        return _fit(recipe, arms)


def _fit(recipe: Recipe, arms: Sequence[Arm]) -> Results:
    import_ray()
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from kdcore.training.ranks import PATIENCE

    config = recipe.cluster
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={"recipe": recipe.model_dump_json(), "arms": list(arms), "cpus": config.cpus_per_worker},
        torch_config=TorchConfig(
            backend="nccl" if config.gpus_per_worker else "gloo", timeout_s=int(PATIENCE.total_seconds())
        ),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=config.gpus_per_worker > 0,
            resources_per_worker=bundle(config.cpus_per_worker, config.gpus_per_worker),
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(recipe.run_dir / "ray"),
            failure_config=FailureConfig(max_failures=config.max_failures),
            worker_runtime_env=_environment(config),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise original_error(error) from None
    if result.return_value is None:
        raise TrainingError("the workers ended without a result; run the same command again, it goes on from there")
    return result.return_value


def _environment(config: ClusterConfig) -> dict[str, Any]:
    """Ray leaves a machine's GPUs visible to a worker that asked for none, and torch takes what it sees."""
    return {} if config.gpus_per_worker else {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}


def _train_loop(config: dict[str, Any]) -> Results:
    """Runs in every worker; Ray Train has initialised torch.distributed."""
    from kdcore.training.run import run_arms

    set_threads(config["cpus"])
    return run_arms(Recipe.model_validate_json(config["recipe"]), config["arms"])


def original_error(error: Exception) -> KDError:
    """The KDError that a worker raised, out of Ray's wrappings; else a TrainingError with the last line of each."""
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    causes = {rank: _unwrap(failure) for rank, failure in sorted(failures.items())}
    for cause in causes.values():
        if isinstance(cause, KDError):
            return cause
    lines = "\n".join(f"  rank {rank}: {_last_line(cause)}" for rank, cause in causes.items())
    return TrainingError(
        f"training stopped because workers failed:\n{lines}\nThe same command goes on from the last checkpoint; set "
        "cluster.max_failures to restart workers by itself. If one was killed for memory, lower "
        "training.micro_batch_size (or set micro_batch_tokens), or cluster.workers"
    )


def _unwrap(error: BaseException) -> BaseException:
    """Ray Train and Ray keep what was raised under these names."""
    for name in ("_base_exc", "cause"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException) and inner is not error:
            return _unwrap(inner)
    return error


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__
