"""The learning rate as a function of the step, and the number of steps."""

import math

from kdcore.config.training import OptimizerConfig, TrainingConfig


def num_steps(config: TrainingConfig, num_samples: int, num_tokens: int = 0) -> int:
    """Optimizer steps of the whole run: `steps`, or as many as `epochs` take, at least one.

    An epoch is `num_samples` samples, or `num_tokens` tokens where the steps are cut by tokens.
    """
    if config.steps is not None:
        return config.steps
    if config.tokens_per_step is not None:
        epochs_size, step_size = (config.epochs or 0) * num_tokens, config.tokens_per_step
    else:
        epochs_size, step_size = (config.epochs or 0) * num_samples, config.batch_size or 1
    return max(1, math.ceil(epochs_size / step_size))


def learning_rate(config: OptimizerConfig, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (0-based) of `steps`: linear warm-up, then the decay to `final_ratio`.

    The first step after a warm-up of W steps has the peak rate; the decay would reach
    its final rate one step after the last, so that no step is wasted on a rate of zero.
    The schedule `step` falls instead at its milestones, which are shares of `steps`, rounded.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "step":
        passed = sum(step >= round(share * steps) for share in config.milestones)
        return config.learning_rate * config.milestone_factor**passed
    start = config.warmup_steps
    if config.schedule == "wsd":  # warm-up, stable, decay
        start = max(start, steps - math.ceil(config.decay_fraction * steps))
    progress = min(1.0, max(0.0, (step - start) / max(1, steps - start)))
    shape = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return config.learning_rate * (config.final_ratio + (1 - config.final_ratio) * shape)
