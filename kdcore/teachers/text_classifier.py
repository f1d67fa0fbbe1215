"""An encoder that classifies texts, as a teacher: texts in, logits out."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kdcore.config.models import DType, TeacherTextClassifierConfig
from kdcore.errors import ConfigError, TeacherError
from kdcore.models.text_classifier import TokenClassifier, build_text_classifier, encode_texts, stacked
from kdcore.models.tokenizer import load_tokenizer
from kdcore.taps import Taps
from kdcore.teachers.base import DTYPES, model_identity, network_settings, pick_device

__all__ = ["TextClassifierTeacher", "Texts"]

Texts = Sequence[tuple[str, str | None]]
"""Texts, each with the second one of its pair, if any."""


class TextClassifierTeacher:
    """The teacher of a recipe of classified texts. Raises TeacherError when it cannot be built or has no weights."""

    kind: Literal["classified_text"] = "classified_text"

    def __init__(self, config: TeacherTextClassifierConfig, num_classes: int, device: str | None = None) -> None:
        if config.path is None:
            raise TeacherError(
                "a teacher must have weights, `architecture` has only initial ones: set teacher.path, or teacher.fit "
                "to train it in this run"
            )
        files = (config.tokenizer, None) if config.tokenizer else (config.path, config.revision)
        self.tokenizer = load_tokenizer(*files)
        try:
            model = build_text_classifier(config, self.tokenizer, num_classes, DTYPES[config.dtype])
        except ConfigError as error:
            raise TeacherError(error.message) from error
        self._dtype: DType = config.dtype
        self._max_length = config.max_length
        self._device = pick_device(device)
        self.model: Any = model.requires_grad_(False).eval()
        self.model.to(self._device)
        self.num_classes = num_classes
        self.network = TokenClassifier(self.model, self.tokenizer)
        """The same, of all that it is given as one tensor."""

    def identity(self) -> dict[str, Any]:
        """Network, weights, dtype, and where texts are cut off."""
        network = network_settings(self.model.config)
        found = model_identity(self.model, self._dtype, network)
        return {"type": "text_classifier", **found, "max_length": self._max_length}

    def encode(self, texts: Texts) -> dict[str, Tensor]:
        """What the model is called with for B texts, padded to the longest of them."""
        return encode_texts(self.tokenizer, texts, self._max_length)

    @torch.inference_mode()
    def logits(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits float32 [B, num_classes] of B encoded texts."""
        return self.network(stacked(inputs).to(self._device)).float()

    def features(self, inputs: dict[str, Tensor], layers: Sequence[str]) -> Tensor:
        """Features float32 [B, D] of the modules `layers` at the first token, side by side; ConfigError for another.

        The first token's, since what a layer gives for a text is as long as the longest text beside it. `logits` is
        what the network gives.
        """
        with Taps(self.network, layers) as taps:
            self.logits(inputs)
        found = [taps.outputs[layer].float() for layer in layers]
        return torch.cat([one[:, 0] if one.ndim == 3 else one.flatten(1) for one in found], dim=1)
