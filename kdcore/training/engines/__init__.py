"""How a step is carried out: plain torch, or DeepSpeed."""

from kdcore.config import TrainingConfig
from kdcore.training.engines.base import Engine
from kdcore.training.model import DistillModel
from kdcore.training.ranks import Ranks


def make_engine(model: DistillModel, config: TrainingConfig, ranks: Ranks, accumulates: bool) -> Engine:
    """The engine that the settings name, holding `model` on the rank's device.

    `accumulates`: a step may take more than one micro-batch.
    """
    if config.engine.type == "torch":
        from kdcore.training.engines.torch_engine import TorchEngine

        return TorchEngine(model, config, ranks)
    from kdcore.training.engines.deepspeed_engine import DeepSpeedEngine

    return DeepSpeedEngine(model, config, config.engine, ranks, accumulates)


__all__ = ["Engine", "make_engine"]
