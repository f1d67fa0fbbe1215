"""The loop: one arm from its first or last saved step to its last step."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcore.config import TrainingConfig
from kdcore.training.bad_steps import BadSteps
from kdcore.training.batches import Samples
from kdcore.training.checkpoint import aside_path, begin, checkpoint_path, digest_share, finish_checkpoint, room_for
from kdcore.training.engines import Engine
from kdcore.training.feed import Feed, feeding
from kdcore.training.metrics_log import MetricsLog
from kdcore.training.model import seed_step
from kdcore.training.preemption import Notice, Terminated
from kdcore.training.progress import OnProgress, Progress
from kdcore.training.ranks import Ranks
from kdcore.training.schedule import learning_rate
from kdcore.training.step_plan import StepPlan

# What is summed over a step and its ranks after the loss and what the model measures: tokens that go through the
# student, those with padding, and the seconds that were spent waiting for data.
_OF_STEP = ("inputs", "slots", "waited")
_INPUTS, _SLOTS, _WAITED = range(-len(_OF_STEP), 0)


@dataclass
class _Window:
    """Sums `names` over the steps that were taken since the last logged line."""

    world: int
    names: tuple[str, ...]
    sums: Tensor = field(init=False)
    norms: float = 0.0
    steps: int = 0
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.sums = torch.zeros(len(self.names), dtype=torch.float64)

    def add(self, sums: Tensor, norm: float) -> None:
        self.sums, self.norms, self.steps = self.sums + sums, self.norms + norm, self.steps + 1

    def values(self, now: float) -> dict[str, float]:
        sums = dict(zip(self.names, self.sums.tolist(), strict=True))
        tokens, padding = sums.pop("tokens"), 1 - sums.pop("inputs") / sums.pop("slots")
        seconds = max(now - self.started, 1e-9)
        waiting = sums.pop("waited") / self.world / seconds
        means = {name: value / tokens for name, value in sums.items()}
        means |= {"gradient_norm": self.norms / self.steps, "tokens_per_second": tokens / seconds}
        return {**means, "padding": padding, "waiting_for_data": waiting}


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
        notice: Notice,
        measures: Sequence[str],
    ) -> None:
        self._name, self._engine, self._samples, self._plan = name, engine, samples, plan
        self._config, self._ranks, self._on_progress = config, ranks, on_progress
        self._checkpoints = directory / "checkpoints"
        self._notice, self._told_to_end = notice, False
        self._measures, self._names = tuple(measures), ("loss", *measures, *_OF_STEP)
        self._window = _Window(ranks.world, self._names)
        self.bad_steps = BadSteps(name, config)

    def run(self, first_step: int, steps: int, log: MetricsLog | None) -> None:
        """Steps `first_step` up to `steps`. `log` is None on ranks but the first.

        Raises TrainingError for a bad step where the settings say so, and Terminated after SIGTERM to any rank, once
        the step in work is done and saved.
        """
        ranks, plan = self._ranks, self._plan
        dealt = (plan.micro_batches(step, ranks.rank) for step in range(first_step, steps))
        with feeding(self._samples, dealt, plan.layout, ranks.device, self._config.prefetch) as feed:
            self._run(first_step, steps, log, feed)

    def _run(self, first_step: int, steps: int, log: MetricsLog | None, feed: Feed) -> None:
        begun, self._window = time.perf_counter(), _Window(self._ranks.world, self._names)
        every = self._config.log_every_steps
        for step in range(first_step, steps):
            rate, done = learning_rate(self._config.optimizer, step, steps), step + 1
            logged = done % every == 0 or done == steps
            digest = self._step(step, rate, feed, logged, step / steps)
            if logged and self._window.steps:
                now = time.perf_counter()
                seconds = now - begun + (log.seconds_before if log else 0.0)
                values = {"step": done, **self._window.values(now), "lr": rate, "seconds": seconds}
                notes = {"samples_digest": digest, "skipped_steps": len(self.bad_steps.skipped)}
                self._report(values, notes, steps, (now - begun) / (done - first_step), log)
                self._window = _Window(self._ranks.world, self._names)
            if done < steps and (self._told_to_end or done % self._config.checkpoint.every_steps == 0):
                self.save(done)
            if self._told_to_end and done < steps:
                self._say(f"told to end (SIGTERM): saved after step {done} of {steps}", log)
                raise Terminated

    def save(self, step: int) -> None:
        """A checkpoint after `step` steps. OutOfSpace on every rank where one's disk is full."""
        final = checkpoint_path(self._checkpoints, step)
        what = f"saving the checkpoint {final}"

        def prepare() -> None:
            if self._ranks.first:
                begin(final)

        def write() -> None:
            with room_for(final):
                self._engine.save(aside_path(final))

        def digest() -> None:
            digest_share(final, self._ranks.rank, self._ranks.world)

        def finish() -> None:
            if self._ranks.first:
                record = {**self._engine.facts(), "bad_steps": self.bad_steps.state()}
                finish_checkpoint(self._checkpoints, step, self._config.checkpoint.keep, record)

        for part in (prepare, write, digest, finish):
            self._ranks.together(part, what)

    def _step(self, step: int, rate: float, feed: Feed, logged: bool, progress: float) -> str:
        """One optimizer step, taken if it is a good one. Returns the digest of its samples, empty if not `logged`."""
        ranks, plan = self._ranks, self._plan
        # The one global normaliser: valid tokens (or images) of the whole step, known to every rank from the plan.
        scale = 1.0 / self._samples.tokens(plan.step_indices(step))
        seed_step(plan.seed, step, ranks.rank)
        total = torch.zeros(len(self._names), dtype=torch.float64, device=ranks.device)
        digests = np.zeros(1, dtype=np.uint64)
        waited = feed.waited
        for part in feed.step():
            loss, metrics = self._engine.accumulate(part.batch, scale, part.last, progress)
            found = torch.stack([loss, *(metrics[name].to(loss.dtype) for name in self._measures)])
            total[: len(found)] += found
            total[_INPUTS] += int(plan.lengths_of(part.indices).sum())
            total[_SLOTS] += part.batch.num_slots
            if logged:
                digests += self._samples.digests(part.indices).sum(dtype=np.uint64)
        total[_WAITED] = feed.waited - waited
        self._engine.update(rate, lambda norm: self._accept(step, total, norm, scale))
        if not logged:
            return ""
        whole = ranks.sum(torch.from_numpy(digests.view(np.int64)).to(ranks.device))  # wraps around, as it should
        return f"{int(whole) % (1 << 64):016x}"

    def _accept(self, step: int, total: Tensor, norm: Tensor, scale: float) -> bool:
        """Whether to take the step: decided on sums over all ranks, the norm's too, so that all decide the same."""
        ranks = self._ranks
        # In the same exchange: every rank's norm, which is the same up to rounding, and whether one was told to end.
        more = torch.stack([norm.to(total) / ranks.world, torch.tensor(float(self._notice.given)).to(total)])
        *values, mean_norm, told = ranks.sum(torch.cat([total, more])).tolist()
        self._told_to_end = told > 0
        reason = self.bad_steps.judge(step, values[0] * scale, mean_norm)
        if reason is None:
            self._window.add(torch.tensor(values, dtype=torch.float64), mean_norm)
        elif ranks.first:
            self._on_progress(Progress(self._name, step + 1, 0, note=f"step {step + 1} is skipped: {reason}"))
        return reason is None

    def _say(self, text: str, log: MetricsLog | None) -> None:
        if log is not None:
            self._on_progress(Progress(self._name, 0, 0, note=text))

    def _report(
        self, values: dict[str, float], notes: dict[str, Any], steps: int, seconds: float, log: MetricsLog | None
    ) -> None:
        if log is None:
            return
        log.write({**values, **notes})
        step = int(values["step"])
        left = (steps - step) * seconds
        speed, waiting = values["tokens_per_second"], values["waiting_for_data"]
        self._on_progress(Progress(self._name, step, steps, values["loss"], speed, left, waiting))
