"""What every process that Ray starts for us does first; imports nothing heavy."""

import logging

# Ray Train's cleaner asks the dashboard's state API whether its controller lives, and says so every second where the
# dashboard is off. A cluster started by us dies with its driver, so nothing is left to clean.
_CLEANER = "ray.train.v2._internal.execution.controller.placement_group_cleaner"


def set_up() -> None:
    """Quiet what says nothing to a user; warnings and errors of Ray Train still come through."""
    logging.getLogger(_CLEANER).setLevel(logging.ERROR)
    logging.getLogger("ray.train").setLevel(logging.WARNING)


def set_threads(cpus: float) -> None:
    """Let torch use as many threads as the process was given cores; at least one."""
    import torch

    torch.set_num_threads(max(1, int(cpus)))
