"""What every codec asks of logits before it encodes them, and of columns after it decodes them."""

import torch
from torch import Tensor

from kdcore.errors import LabelError

__all__ = [
    "MAX_LOG_SUM",
    "check_logits",
    "check_maxima",
    "check_outputs",
    "check_shape",
    "log_sums",
    "renormalise",
    "row_chunks",
]

# The cells are rounded to float16: each log-probability l moves by at most |l| / 2048, so the sum of a row moves by at
# most entropy / 2048 (below 0.006 at 150,000 classes). More than this is damage, not rounding.
MAX_LOG_SUM = 0.02
_CHUNK_ELEMENTS = 1 << 22


def check_logits(logits: Tensor, what: str) -> None:
    """Refuse logits [N, V] with NaN, +inf, or a row without a finite value; LabelError names `what`."""
    if logits.ndim != 2 or not logits.is_floating_point():
        raise LabelError(f"logits of {what} must be floats [N, V], got {logits.dtype} {list(logits.shape)}")
    if logits.numel() == 0:
        return
    check_maxima(logits.amax(dim=1), what)


def check_maxima(row_max: Tensor, what: str) -> None:
    """Refuse logits by the largest of each row [N]: NaN and +inf both surface there, and so does a row of -inf."""
    bad = ~torch.isfinite(row_max)
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        value = float(row_max[first])
        cause = "every class has probability zero" if value == float("-inf") else "the forward pass overflowed"
        raise LabelError(
            f"logits must be finite (-inf only for classes that are masked out), but row {first} of {what} has "
            f"{value}: {cause} ({int(bad.sum())} of {len(bad)} rows). Check the teacher's weights, or set "
            f"teacher.dtype: float32"
        )


def check_outputs(outputs: Tensor, num_classes: int, codec: str) -> None:
    """Refuse outputs that are not finite logits [N, num_classes]."""
    check_shape(outputs, num_classes, codec)
    check_logits(outputs, "the batch to encode")


def check_shape(outputs: Tensor, num_classes: int, codec: str) -> None:
    """Refuse outputs that are not logits [N, num_classes]."""
    if outputs.ndim == 2 and outputs.shape[1] != num_classes:
        raise LabelError(f"codec '{codec}' was made for {num_classes} classes, the logits have {outputs.shape[1]}")
    if outputs.ndim != 2 or not outputs.is_floating_point():
        raise LabelError(f"logits must be floats [N, V], got {outputs.dtype} {list(outputs.shape)}")


def renormalise(cells: Tensor, max_log_sum: float = MAX_LOG_SUM) -> Tensor:
    """Log-probabilities [N, C] float32, shifted in place so that each row sums to one; see `log_sums`."""
    return cells.sub_(log_sums(cells, max_log_sum))


def log_sums(cells: Tensor, max_log_sum: float) -> Tensor:
    """The log of each row's sum of probabilities, [N, 1], of log-probabilities [N, C]; LabelError if far from zero."""
    log_sum = torch.logsumexp(cells, dim=1, keepdim=True)
    bad = ~(log_sum.abs() <= max_log_sum)
    if bool(bad.any()):
        first = int(bad.nonzero()[0, 0])
        raise LabelError(
            f"the probabilities of a label must sum to one, but label {first} sums to "
            f"{float(log_sum[first].exp()):.4g}: the shard was altered; `kd store verify` says which one"
        )
    return log_sum


def row_chunks(num_rows: int, num_classes: int, elements: int = _CHUNK_ELEMENTS) -> list[slice]:
    """Slices of rows whose [rows, V] work space stays within `elements`."""
    step = max(1, elements // max(1, num_classes))
    return [slice(start, min(start + step, num_rows)) for start in range(0, num_rows, step)]
