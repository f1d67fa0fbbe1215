"""DeepSpeed's checkpoints for another number of ranks: converted to its universal form, beside the original.

The form has a file for each parameter and moment, whole, from which every rank takes its part. Converting reads
pickles: as with all checkpoints of DeepSpeed, only files whose digests were compared get here.
"""

import io
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from kdcore.errors import CheckpointError
from kdcore.training.checkpoint import (
    aside_path,
    begin,
    check_checkpoint,
    converted_path,
    publish,
    read_record,
    room_for,
)
from kdcore.training.ranks import Ranks


def universal_checkpoint(checkpoint: Path, tag: str, ranks: Ranks) -> Path:
    """The universal form of `checkpoint`, made by rank 0 unless it is there and whole; every rank gets its path."""
    target = converted_path(checkpoint)

    def convert() -> None:
        if ranks.first and check_checkpoint(target) is not None:
            _convert(checkpoint, target, tag)

    ranks.together(convert, f"converting the checkpoint {checkpoint}")
    return target


def _convert(checkpoint: Path, target: Path, tag: str) -> None:
    from deepspeed.checkpoint import ds_to_universal

    begin(target)
    work = Namespace(
        input_folder=str(checkpoint / tag),
        output_folder=str(aside_path(target) / tag),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    said = io.StringIO()
    try:
        # It prints a page of progress; what it says is of use when it fails.
        with room_for(target), redirect_stdout(said), redirect_stderr(said):
            ds_to_universal.main(work)
    except (AssertionError, RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"DeepSpeed could not convert the checkpoint {checkpoint} for another number of ranks: {error}; continue "
            "with the cluster.workers and zero_stage it was written with, or remove the arm's directory"
        ) from error
    publish(target, {"of": read_record(checkpoint)["step"]})
