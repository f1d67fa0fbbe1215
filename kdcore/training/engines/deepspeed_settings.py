"""DeepSpeed's configuration file, from ours."""

from typing import Any

from kdcore.config import TrainingConfig
from kdcore.config.training import DeepSpeedEngineConfig, OptimizerConfig
from kdcore.errors import ConfigError
from kdcore.facts import flatten
from kdcore.training.engines.base import optimizer_settings
from kdcore.training.ranks import Ranks

# Set from other settings, also in parts: in `extra` they would silently disagree with those. With its precisions go its
# own rules for steps that overflow, and what gradients are summed in: other sums have optimizers without such rules.
_OURS = ("train_batch_size", "optimizer", "scheduler", "checkpoint", "bf16", "fp16", "data_types")


def deepspeed_settings(
    config: TrainingConfig, settings: DeepSpeedEngineConfig, ranks: Ranks, micro_batches: int
) -> dict[str, Any]:
    """DeepSpeed's configuration: ours, and `extra` beside it. ConfigError for keys of `extra` that are ours alone."""
    on_gpu = ranks.device.type == "cuda"
    ours: dict[str, Any] = {
        # Loss sums are scaled by us, so that these two only say how many micro-batches make a step.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "gradient_clipping": config.gradient_clip,
        **_optimizer(config.optimizer, on_gpu and settings.offload_optimizer != "none"),
        "zero_optimization": {"stage": settings.zero_stage, **_offload(settings, on_gpu)},
        "bf16": {"enabled": config.precision == "bfloat16"},
        "steps_per_print": 10**9,
    }
    if config.precision == "bfloat16" and settings.zero_stage >= 2:
        # Stages 0 and 1 have another optimizer for this, which looks at the gradient's norm of its own rank alone.
        ours["data_types"] = {"grad_accum_dtype": "fp32"}
    _refuse(settings.extra, ours)
    return _merge(ours, settings.extra)


def _optimizer(config: OptimizerConfig, own_adam: bool) -> dict[str, Any]:
    """DeepSpeed's own Adam for state in host memory is compiled on first use; it pays where there is a GPU."""
    params = {"lr": config.learning_rate, "weight_decay": config.weight_decay, **optimizer_settings(config)}
    params = {name: list(value) if isinstance(value, tuple) else value for name, value in params.items()}
    if config.type == "adamw":
        return {"optimizer": {"type": "AdamW", "params": {**params, "torch_adam": not own_adam}}}
    # Torch's SGD, which ZeRO takes once it is told to, and offloads.
    permits = {"zero_allow_untested_optimizer": True, "zero_force_ds_cpu_optimizer": False}
    return {"optimizer": {"type": "SGD", "params": params}, **permits}


def _offload(settings: DeepSpeedEngineConfig, pinned: bool) -> dict[str, Any]:
    wanted = {"offload_optimizer": settings.offload_optimizer, "offload_param": settings.offload_parameters}
    found: dict[str, Any] = {}
    for name, device in wanted.items():
        if device != "none":
            path = {"nvme_path": settings.offload_path} if device == "nvme" else {}
            found[name] = {"device": device, "pin_memory": pinned, **path}
    return found


def _refuse(extra: dict[str, Any], ours: dict[str, Any]) -> None:
    whole = [name for name in extra if name in _OURS]
    taken = sorted([*whole, *(flatten(extra).keys() & flatten(ours).keys())])
    if taken:
        raise ConfigError(
            f"training.engine.extra must not set {taken}, which follow from other settings (training.batch_size, "
            "micro_batch_size, precision, gradient_clip, optimizer, engine.zero_stage, engine.offload_*); set those "
            "instead"
        )


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = _merge(merged[name], value) if both else value
    return merged
