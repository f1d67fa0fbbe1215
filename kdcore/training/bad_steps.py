"""Steps that are not taken: a loss or gradient that is not finite, or a loss far above the recent ones."""

import math
from collections import deque
from statistics import median
from typing import Any

from kdcore.config import TrainingConfig
from kdcore.errors import TrainingError

_RECENT = 50  # losses that the median is taken of
_ENOUGH = 10  # with fewer, nothing is called a spike


class BadSteps:
    """Judges every step before its weights change, by numbers that are the same on all ranks."""

    def __init__(self, arm: str, config: TrainingConfig) -> None:
        self._arm, self._config = arm, config
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self.skipped: list[dict[str, Any]] = []

    def judge(self, step: int, loss: float, norm: float) -> str | None:
        """Why the 0-based `step` is not to be taken; None for a good one. `loss` is the mean over its tokens.

        `norm` is the whole gradient's before clipping. Raises TrainingError where the settings say to stop, or when
        more steps than max_skipped_steps were skipped.
        """
        reason = self._reason(loss, norm)
        if reason is None:
            self._recent.append(loss)
            return None
        self.skipped.append({"step": step + 1, "reason": reason})
        if self._config.on_bad_step == "stop":
            raise TrainingError(self._stopped(step, reason))
        if len(self.skipped) > self._config.max_skipped_steps:
            raise TrainingError(
                f"'{self._arm}' skipped {len(self.skipped)} steps, more than training.max_skipped_steps "
                f"({self._config.max_skipped_steps}); the last, step {step + 1}, because {reason}. {self._advice()}"
            )
        return reason

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON: with it a resumed run judges as an undisturbed one."""
        return {"recent": list(self._recent), "skipped": self.skipped}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` said."""
        self._recent.extend(state["recent"])
        self.skipped = list(state["skipped"])

    def _reason(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if not math.isfinite(norm):
            return f"its gradient's norm is {norm}, though its loss is {loss:.4g}"
        factor = self._config.spike_factor
        if factor is None or len(self._recent) < _ENOUGH:
            return None
        usual = median(self._recent)
        if usual > 0 and loss > factor * usual:  # a sampled tail's loss may be below zero, where a factor says nothing
            return f"its loss {loss:.4g} is a spike, {loss / usual:.3g} times the median {usual:.4g} of those before"
        return None

    def _stopped(self, step: int, reason: str) -> str:
        return (
            f"step {step + 1} of '{self._arm}' is not taken, because {reason}; the weights before it are fine. "
            f"{self._advice()}, or leave such steps out with training.on_bad_step: skip"
        )

    def _advice(self) -> str:
        rate = self._config.optimizer.learning_rate
        return f"Likely the learning rate is too high: lower training.optimizer.learning_rate ({rate:g}) or warm up"
