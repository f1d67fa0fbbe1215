"""Every setting of every job, typed and strict; imports neither torch nor ray."""

from kdcore.config.cluster import ClusterConfig
from kdcore.config.data import DataConfig
from kdcore.config.labels import CodecConfig, LabelsConfig
from kdcore.config.models import ModelConfig, TeacherConfig
from kdcore.config.recipe import EvaluationConfig, Recipe
from kdcore.config.training import TrainingConfig

__all__ = [
    "ClusterConfig",
    "CodecConfig",
    "DataConfig",
    "EvaluationConfig",
    "LabelsConfig",
    "ModelConfig",
    "Recipe",
    "TeacherConfig",
    "TrainingConfig",
]
