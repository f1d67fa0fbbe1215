"""From a causal LM and a batch of LabelledText to a loss, for loops of one's own and for those of other libraries."""

import functools
from typing import Any, TypeVar
from weakref import WeakSet

from pydantic import ValidationError
from torch import Tensor, nn

from kdcore.config.loss import LossConfig
from kdcore.errors import ConfigError
from kdcore.losses.objective import objective_of
from kdcore.training.batches import TextBatch
from kdcore.training.head_trial import check_logits
from kdcore.training.text_loss import text_loss

__all__ = ["distillation_loss", "with_distillation_loss"]

Model = TypeVar("Model", bound=nn.Module)
_tried: WeakSet[nn.Module] = WeakSet()
"""Models whose logits are known to be those that the loss makes."""


def distillation_loss(
    model: nn.Module, batch: TextBatch, *, num_tokens: int | Tensor | None = None, **settings: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss over a batch's tokens, and the means of METRICS but `tokens`, detached, as scalars.

    `model` is a causal LM of transformers; no [tokens, vocabulary] tensor is made. `settings` are those of
    `training.loss` in a recipe (docs/losses.md): hard_weight=0.1, type="reverse_kl", chunk_tokens=512, ...

    Sums are divided by `num_tokens`, by default the batch's own `batch.num_tokens`. With the labelled tokens of a whole
    step, over its micro-batches and ranks, the gradients of these add up to that of the step's mean. The batch is moved
    to the model's device where it is not there.

    Raises ConfigError for a setting that is none, a divergence that is not defined for such labels, a model whose
    logits are not its head's product with its last hidden states, which is tried at the first call, and one that was
    wrapped by a trainer or compiled (see with_distillation_loss); LabelError for a student with fewer classes than
    the labels.
    """
    _refuse_wrapped(model)
    checked = _checked(settings)
    _try_once(model)
    return _mean_loss(model, batch, num_tokens, checked)


def with_distillation_loss(model: Model, **settings: Any) -> Model:
    """The same model, whose forward pass also takes `batch=`, and then returns {"loss": ..., and the metrics}.

    For what wraps a model and calls it: DistributedDataParallel, DeepSpeed, accelerate, Trainer. It is changed in
    place and stays what it was in all else (save_pretrained, generate, forward with other arguments). `settings`,
    values and errors as of `distillation_loss`; `num_items_in_batch=` is its `num_tokens`, by the name that Trainer
    has for it. torch.compile, too, takes what this returns.
    """
    _refuse_wrapped(model)
    checked = _checked(settings)
    _try_once(model)
    kind = type(model)

    @functools.wraps(kind.forward)
    def forward(
        self: Model,
        *inputs: Any,
        batch: TextBatch | None = None,
        num_items_in_batch: int | Tensor | None = None,
        **others: Any,
    ) -> Any:
        if batch is not None:
            loss, metrics = _mean_loss(self, batch, num_items_in_batch, checked)
            return {"loss": loss, **metrics}
        if num_items_in_batch is not None:
            others["num_items_in_batch"] = num_items_in_batch
        return kind.forward(self, *inputs, **others)

    # As torch's fully_shard does it: a class of this one model, under the name that save_pretrained writes down.
    # Trainer counts a step's tokens for models that accept what it found.
    ours = {"__module__": kind.__module__, "forward": forward, "accepts_loss_kwargs": True}
    model.__class__ = type(kind.__name__, (kind,), ours)  # pyright: ignore[reportAttributeAccessIssue]
    return model


def _refuse_wrapped(model: nn.Module) -> None:
    """The loss calls the decoder, past the forward pass that a wrapper must see, or torch.compile has made fast."""
    if isinstance(getattr(model, "module", None), nn.Module) or isinstance(
        getattr(model, "_orig_mod", None), nn.Module
    ):
        raise ConfigError(
            f"{type(model).__name__} wraps a model and must see its forward pass: give it the model that "
            "kdcore.with_distillation_loss returns, and call it with batch=batch"
        )


def _try_once(model: nn.Module) -> None:
    """`check_logits` of a model whose parameters are here, and neither sharded (a DTensor) nor still to come."""
    parameters = list(model.parameters())
    if model in _tried or any(
        value.is_meta or value.numel() == 0 or hasattr(value, "placements") for value in parameters
    ):
        return
    check_logits(model)
    _tried.add(model)


def _mean_loss(
    model: nn.Module, batch: TextBatch, num_tokens: int | Tensor | None, settings: LossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    embeddings: Any = model.get_input_embeddings()  # pyright: ignore[reportCallIssue]
    batch = batch.to(embeddings.weight.device, non_blocking=True)
    loss, metrics = text_loss(model, batch, objective_of(settings, settings.hard_weight), settings)
    # A batch may be without a token to learn: its sums are 0, and so are its means.
    count = max(1, batch.num_tokens) if num_tokens is None else num_tokens
    return loss / count, {name: value / count for name, value in metrics.items() if name != "tokens"}


def _checked(settings: dict[str, Any]) -> LossConfig:
    try:
        return LossConfig.model_validate(settings)
    except ValidationError as error:
        found = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(
            f"settings of the loss are those of training.loss in a recipe ({', '.join(LossConfig.model_fields)}); "
            f"{found.removeprefix(': ')}"
        ) from error
