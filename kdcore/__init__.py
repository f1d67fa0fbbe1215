"""kdcore: soft labels as verified Arrow shards, and the losses and trainers that live off them.

`import kdcore` costs milliseconds: each public name is imported when it is first used, so that reading a
recipe needs no torch and opening a store needs no transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcore.config.load import load_recipe
    from kdcore.config.recipe import Recipe
    from kdcore.losses.response.soft_targets import soft_target_loss
    from kdcore.losses.sparse.loss import distillation_loss_from_hidden
    from kdcore.store.mix.opening import open_mix
    from kdcore.store.reader import open_store
    from kdcore.store.verify import verify_store
    from kdcore.students.export import load_student
    from kdcore.training.image_scripting import compose_losses
    from kdcore.training.labelled_text import LabelledText
    from kdcore.training.scripting import distillation_loss, with_distillation_loss

__version__ = "0.1.0"

__all__ = [
    "LabelledText",
    "Recipe",
    "__version__",
    "compose_losses",
    "distillation_loss",
    "distillation_loss_from_hidden",
    "load_recipe",
    "load_student",
    "open_mix",
    "open_store",
    "soft_target_loss",
    "verify_store",
    "with_distillation_loss",
]

_HOMES = {
    "LabelledText": "kdcore.training.labelled_text",
    "compose_losses": "kdcore.training.image_scripting",
    "Recipe": "kdcore.config.recipe",
    "distillation_loss": "kdcore.training.scripting",
    "distillation_loss_from_hidden": "kdcore.losses.sparse.loss",
    "load_recipe": "kdcore.config.load",
    "load_student": "kdcore.students.export",
    "open_mix": "kdcore.store.mix.opening",
    "open_store": "kdcore.store.reader",
    "soft_target_loss": "kdcore.losses.response.soft_targets",
    "verify_store": "kdcore.store.verify",
    "with_distillation_loss": "kdcore.training.scripting",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'kdcore' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
