"""What every process that Ray starts for us does first; imports nothing heavy."""

import logging
import os

__all__ = ["set_threads", "set_up"]

_TRAIN = "ray.train.v2"
# Ray Train's cleaner asks the dashboard's state API whether its controller lives, and says so every second where the
# dashboard is off. A cluster started by us dies with its driver, so nothing is left to clean.
_CLEANER = f"{_TRAIN}._internal.execution.controller.placement_group_cleaner"
# It warns with two screens of traceback whenever a busy machine answers late, and then asks again.
_COORDINATOR = f"{_TRAIN}._internal.execution.scaling_policy.autoscaling_coordinator_client"
# It logs the traceback of what a worker raised; the same error reaches the caller.
_CONTROLLER = f"{_TRAIN}._internal.execution.controller.controller"


def set_up() -> None:
    """Quiet what says nothing to a user; warnings of Ray Train still come through, in a line each."""
    # Bars of workers would be torn to pieces in the driver's log.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger(_TRAIN).setLevel(logging.WARNING)
    logging.getLogger(_CLEANER).setLevel(logging.ERROR)
    for name in (_COORDINATOR, _CONTROLLER):
        logging.getLogger(name).addFilter(_first_line_only)


def set_threads(cpus: float) -> None:
    """Let torch use as many threads as the process was given cores; at least one."""
    import torch

    torch.set_num_threads(max(1, int(cpus)))


def _first_line_only(record: logging.LogRecord) -> bool:
    record.msg, record.args = (record.getMessage().strip().splitlines() or [""])[0], None
    record.exc_info = record.exc_text = record.stack_info = None
    return True
