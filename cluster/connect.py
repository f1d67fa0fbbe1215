"""Start or join a Ray cluster, and leave nothing behind."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from cluster.security import check_versions, token_by_default
from kdcore.config import ClusterConfig
from kdcore.errors import ClusterError, missing_extra

__all__ = ["cluster_session", "code_paths", "import_ray", "started_here", "worker_environment"]

_ROOT = Path(__file__).resolve().parent.parent
_CONNECT_SECONDS = 5.0
_JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray in the process of a submitted job
# Set before Ray is imported, unless the user has set them.
_DRIVER_DEFAULTS = {
    # The version of Ray Train whose errors cluster/training.py unwraps.
    "RAY_TRAIN_V2_ENABLED": "1",
    # One more actor to import torch in, of use only where a cluster manager announces preemptions.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Nobody reads them: training has a log of its own.
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # How soon an ended or dead worker is noticed: the default of 2 s is a fair part of a short arm.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # The default of 60 is less than several workers take to import torch on a busy machine.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "600",
    # Nothing here reports home.
    "RAY_USAGE_STATS_ENABLED": "0",
    # A worker without GPUs keeps CUDA_VISIBLE_DEVICES: the default of newer versions, about which older ones warn.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Workers stay in the driver's folder, so that a relative path means the same.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # Lines of workers are printed as they are: Ray's own print puts each into a log record.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
}

_ours: list[bool] = []


def import_ray() -> Any:
    """Import ray with this project's defaults; MissingExtra where it is not installed."""
    for name, value in _DRIVER_DEFAULTS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise missing_extra("ray", "cluster", "Labelling and training on a cluster") from error
    return ray


def code_paths() -> list[Path]:
    """The packages that travel with a job; data, runs and environments never do."""
    return [_ROOT / package for package in ("kdcore", "cluster", "jobs")]


def worker_environment(config: ClusterConfig) -> dict[str, Any]:
    """The Ray runtime environment of our processes: they import the same packages as the driver."""
    environment: dict[str, Any] = {"worker_process_setup_hook": "cluster.workers.set_up"}
    if config.address == "local":
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["env_vars"] = {"PYTHONPATH": os.pathsep.join(paths)}
    elif _JOB_VARIABLE not in os.environ:
        # A submitted job brought these packages along, and Ray refuses to be told twice.
        environment["py_modules"] = [str(path) for path in code_paths()]
    return environment


@contextmanager
def cluster_session(config: ClusterConfig) -> Iterator[None]:
    """Hold a connection to the cluster of `config`; what was started here is shut down on the way out.

    Inside another session this is a no-op, so that a job of several stages pays for one start.
    Raises ClusterError when the address does not answer or refuses us.
    """
    check_versions()
    if config.address == "local":
        token_by_default()
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    _connect(ray, config)
    _ours.append(config.address == "local")
    try:
        yield
    finally:
        _ours.pop()
        ray.shutdown()


def started_here() -> bool:
    """Whether the cluster of the open session is one that this process started: it does not grow."""
    return bool(_ours and _ours[-1])


def _connect(ray: Any, config: ClusterConfig) -> None:
    # Token authentication stays on (Ray's default); only the notice about it is dropped.
    logging.getLogger("ray._private.authentication.authentication_token_setup").setLevel(logging.ERROR)
    options: dict[str, Any] = {"include_dashboard": config.dashboard, "dashboard_host": "127.0.0.1"}
    if config.address != "local":
        _reach(config.address)
        options = {}
    try:
        _init(ray, address=config.address, runtime_env=worker_environment(config), **options)
    except Exception as error:  # Ray raises bare Exceptions here, and users need none of its internals
        ray.shutdown()
        raise _refused(config.address, error) from error
    if threading.current_thread() is threading.main_thread():
        # Ray's own handlers end a driver with other codes, and one that started the cluster only after it has drained.
        signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: object) -> NoReturn:
    """End by the way of all `with` blocks, so that no actor outlives the driver; the shell's code for a signal."""
    raise SystemExit(128 + number)


def _init(ray: Any, **options: Any) -> None:
    """ray.init, once more where a busy machine did not bring up its processes within Ray's fixed 30 s."""
    options = {"logging_level": logging.WARNING, "log_to_driver": True, **options}
    try:
        ray.init(**options)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        ray.init(**options)


def _reach(address: str) -> None:
    """Answer in seconds where nobody listens; Ray itself would retry for a minute."""
    host, separator, port = address.rpartition(":")
    if not separator or "://" in address or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ClusterError(
            f"cluster.address '{address}' does not answer within {_CONNECT_SECONDS:g} s ({error}). Is the head node up "
            "and the port (Ray's default: 6379) open from here? `cluster.address: local` starts a cluster here"
        ) from error


def _refused(address: str, error: Exception) -> ClusterError:
    text = str(error).strip()
    cause = f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
    if "auth" in f"{type(error).__name__} {text}".lower():
        remedy = (
            "the cluster wants another token: put the head node's token in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH "
            "or ~/.ray/auth_token"
        )
    elif address == "local":
        remedy = "Ray could not start here: is the machine overloaded, or /tmp or /dev/shm full?"
    else:
        remedy = (
            "is a cluster running (`ray status`), with this version of Ray and Python? "
            "`cluster.address: local` starts one here"
        )
    return ClusterError(f"cannot connect to the Ray cluster at cluster.address '{address}' ({cause}); {remedy}")
