"""The loop: one arm from its first or last saved step to its last step."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kdcore.config import TrainingConfig
from kdcore.errors import TrainingError
from kdcore.losses.objective import METRICS
from kdcore.training.batches import Samples
from kdcore.training.checkpoint import aside_path, begin_checkpoint, finish_checkpoint
from kdcore.training.engines import Engine
from kdcore.training.metrics_log import MetricsLog
from kdcore.training.model import seed_step
from kdcore.training.progress import OnProgress, Progress
from kdcore.training.ranks import Ranks
from kdcore.training.schedule import learning_rate
from kdcore.training.step_plan import StepPlan

# What is summed over a step: the loss and its own metrics, tokens that go through the student, and those with padding.
_SUMS = ("loss", *METRICS, "inputs", "slots")


@dataclass
class _Window:
    """Sums since the last logged line."""

    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(len(_SUMS), dtype=torch.float64))
    started: float = field(default_factory=time.perf_counter)

    def values(self, now: float) -> dict[str, float]:
        means = dict(zip(_SUMS, self.sums.tolist(), strict=True))
        tokens, seconds = means.pop("tokens"), max(now - self.started, 1e-9)
        padding = 1 - means.pop("inputs") / means.pop("slots")
        values = {name: value / tokens for name, value in means.items()}
        return values | {"tokens_per_second": tokens / seconds, "padding": padding}


class Loop:
    """Runs the optimizer steps of one arm."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        samples: Samples,
        plan: StepPlan,
        config: TrainingConfig,
        ranks: Ranks,
        directory: Path,
        on_progress: OnProgress,
    ) -> None:
        self._name, self._engine, self._samples, self._plan = name, engine, samples, plan
        self._config, self._ranks, self._on_progress = config, ranks, on_progress
        self._checkpoints = directory / "checkpoints"
        self.tokens_seen = 0

    def run(self, first_step: int, steps: int, log: MetricsLog | None) -> dict[str, float]:
        """Steps `first_step` up to `steps`; returns the last logged values. `log` is None on ranks but the first."""
        begun = time.perf_counter()
        window, last = _Window(), {}
        for step in range(first_step, steps):
            rate = learning_rate(self._config.optimizer, step, steps)
            window.sums += self._step(step, rate)
            done = step + 1
            if done % self._config.log_every_steps == 0 or done == steps:
                now = time.perf_counter()
                seconds = now - begun + (log.seconds_before if log else 0.0)
                last = {"step": done, **window.values(now), "lr": rate, "seconds": seconds}
                self._report(last, steps, (now - begun) / (done - first_step), log)
                window = _Window()
            if done % self._config.checkpoint.every_steps == 0 and done < steps:
                self.save(done)
        return last

    def save(self, step: int) -> None:
        """A checkpoint after `step` steps."""
        if self._ranks.first:
            begin_checkpoint(self._checkpoints, step)
        self._ranks.barrier()
        self._engine.save(aside_path(self._checkpoints, step))
        self._ranks.barrier()
        if self._ranks.first:
            finish_checkpoint(self._checkpoints, step, self._config.checkpoint.keep)
        self._ranks.barrier()

    def _step(self, step: int, rate: float) -> torch.Tensor:
        """One optimizer step; returns the sums over all ranks, float64 [*_SUMS] on the CPU."""
        ranks, plan = self._ranks, self._plan
        # The one global normaliser: valid tokens (or images) of the whole step, known to every rank from the plan.
        scale = 1.0 / self._samples.tokens(plan.step_indices(step))
        seed_step(plan.seed, step, ranks.rank)
        total = torch.zeros(len(_SUMS), dtype=torch.float64, device=ranks.device)
        parts = plan.micro_batches(step, ranks.rank)
        for number, indices in enumerate(parts):
            batch = self._samples.batch(indices, plan.layout).to(ranks.device)
            loss, metrics = self._engine.accumulate(batch, scale, last=number == len(parts) - 1)
            total[:-2] += torch.stack([loss, *(metrics[name].to(loss.dtype) for name in METRICS)])
            total[-2] += int(plan.lengths[indices].sum())
            total[-1] += batch.num_slots
        sums = ranks.sum(total).cpu()
        self._check(sums, step)
        self._engine.update(rate)
        return sums

    def _check(self, sums: torch.Tensor, step: int) -> None:
        if not math.isfinite(float(sums[0])):
            raise TrainingError(
                f"the loss must be finite, but is {float(sums[0])} at step {step + 1} of '{self._name}'; the weights "
                "before this step are fine. Likely the learning rate is too high: lower "
                f"training.optimizer.learning_rate ({self._config.optimizer.learning_rate}) or add warmup_steps"
            )
        self.tokens_seen += int(sums[_SUMS.index("tokens")])

    def _report(self, values: dict[str, float], steps: int, seconds_per_step: float, log: MetricsLog | None) -> None:
        if log is None:
            return
        log.write(values)
        step = int(values["step"])
        left = (steps - step) * seconds_per_step
        self._on_progress(Progress(self._name, step, steps, values["loss"], values["tokens_per_second"], left))
