"""DeepSpeed's checkpoints for another number of ranks: converted to its universal form, beside the original.

The form has a file for each parameter and moment, whole, from which every rank takes its part. Converting reads
pickles: as with all checkpoints of DeepSpeed, only files whose digests were compared get here. DeepSpeed converts and
reads the two moments of Adam alone: SGD's momentum goes through as the first of them.
"""

import io
import shutil
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from kdcore.errors import CheckpointError
from kdcore.training.checkpoint import (
    begin,
    check_checkpoint,
    converted_path,
    publish,
    read_record,
    require_files,
    room_for,
)
from kdcore.training.engines.state_file import save_state
from kdcore.training.ranks import Ranks

# Where a rank's file has its share of the masters, and the state of torch's optimizer: at stages 1 and 2, and at 3.
_SHARES = ("single_partition_of_fp32_groups", "fp32_flat_groups")
_BASES = ("base_optimizer_state", "optimizer_state_dict")


def universal_checkpoint(checkpoint: Path, tag: str, ranks: Ranks) -> Path:
    """The universal form of `checkpoint`, made by rank 0 unless it is there and whole; every rank gets its path."""
    target = converted_path(checkpoint)

    def convert() -> None:
        if ranks.first and check_checkpoint(target) is not None:
            _convert(checkpoint, target, tag)

    ranks.together(convert, f"converting the checkpoint {checkpoint}")
    ranks.together(lambda: require_files(target), f"reading the converted checkpoint {target}")
    return target


def momentum_from_adam(optimizer: Optimizer) -> None:
    """Give SGD the momentum that a universal form brought as Adam's first moment."""
    for state in optimizer.state.values():
        if "exp_avg" in state:
            moment = state["exp_avg"]
            state.clear()
            state["momentum_buffer"] = moment


def _convert(checkpoint: Path, target: Path, tag: str) -> None:
    from deepspeed.checkpoint import ds_to_universal

    aside, record, source = begin(target), read_record(checkpoint), checkpoint / tag
    said = io.StringIO()
    try:
        # It prints a page of progress; what it says is of use when it fails.
        with room_for(target), redirect_stdout(said), redirect_stderr(said):
            if record.get("optimizer") == "sgd":
                source = _as_adam(source, aside / "as-adam")
            ds_to_universal.main(_work(source, aside / tag))
            shutil.rmtree(aside / "as-adam", ignore_errors=True)
    except (AssertionError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"DeepSpeed could not convert the checkpoint {checkpoint} for another number of ranks: {error}; continue "
            "with the cluster.workers and zero_stage it was written with, or remove the arm's directory"
        ) from error
    publish(target, {"of": record["step"]})


def _work(source: Path, target: Path) -> Namespace:
    """What the converter takes from a command line."""
    return Namespace(
        input_folder=str(source),
        output_folder=str(target),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )


def _as_adam(source: Path, target: Path) -> Path:
    """The files of a checkpoint with SGD's momentum under the name of Adam's first moment, and no second one."""
    target.mkdir()
    for file in source.iterdir():
        if not file.name.endswith("_optim_states.pt"):
            (target / file.name).symlink_to(file.resolve())
            continue
        written = torch.load(file, map_location="cpu", weights_only=False)
        part = written["optimizer_state_dict"]
        shares = next(part[name] for name in _SHARES if name in part)
        base = next(part[name] for name in _BASES if name in part)
        base["state"] = {
            number: _adam_state(share, base["state"].get(number, {})) for number, share in enumerate(shares)
        }
        save_state(written, target / file.name)
    return target


def _adam_state(share: torch.Tensor, state: dict[str, Any]) -> dict[str, Any]:
    """A state as Adam's; the second moment is one zero, spread so that it takes no room."""
    momentum = state.get("momentum_buffer")
    zeros = torch.zeros(1).expand(share.numel())
    return {"step": torch.tensor(0.0), "exp_avg": zeros if momentum is None else momentum, "exp_avg_sq": zeros}
