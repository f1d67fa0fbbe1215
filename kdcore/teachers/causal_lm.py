"""A causal language model as a teacher: windows of tokens in, logits over the valid vocabulary out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from kdcore.config.models import DType, TeacherLMConfig
from kdcore.errors import ConfigError, TeacherError
from kdcore.labels.feature import ShapedLayers
from kdcore.models.causal_lm import load_pretrained_lm
from kdcore.models.tokenizer import check_tokenizer, load_tokenizer
from kdcore.taps import Taps
from kdcore.teachers.base import DTYPES, model_identity, network_settings, pick_device
from kdcore.teachers.slots import SlotMemory, check_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_causal_lm(
    path: str,
    dtype: DType,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
    tensor_parallel: int = 1,
) -> PreTrainedModel:
    """A model in evaluation mode, without gradients, from safetensors. Raises TeacherError.

    Split over the ranks of the torch.distributed group if `tensor_parallel` is above one; the group says on which
    device, so that `device` does not count then.
    """
    if tensor_parallel > 1:
        check_group(tensor_parallel)
    try:
        model = load_pretrained_lm(path, DTYPES[dtype], revision, trust_remote_code, tensor_parallel)
    except ConfigError as error:
        raise TeacherError(error.message) from error
    if tensor_parallel > 1:
        return model.requires_grad_(False).eval()
    return model.requires_grad_(False).eval().to(pick_device(device))  # pyright: ignore[reportArgumentType]


def check_group(ranks: int) -> None:
    """TeacherError unless this process is in a torch.distributed group of so many."""
    running = dist.is_available() and dist.is_initialized()
    size = dist.get_world_size() if running else 0
    if size != ranks:
        raise TeacherError(
            f"teacher.tensor_parallel {ranks} needs a torch.distributed group of {ranks} ranks, there "
            f"{f'is one of {size}' if running else 'is none'}. Start that many processes and join them to a group "
            "before the teacher is made, or set teacher.tensor_parallel to 1."
        )


class CausalLMTeacher:
    """The teacher of a text recipe. Raises TeacherError, or TokenizerMismatch, on construction.

    With teacher.tensor_parallel n above one, each of the n ranks of the torch.distributed group makes one of these and
    makes the same calls in the same order, `identity` among them; each gets the whole answer. The identity is that of
    the unsplit teacher: its labels agree up to the order in which floating-point sums are taken (docs/teachers.md).
    """

    kind: Literal["text"] = "text"

    def __init__(self, config: TeacherLMConfig, device: str | None = None) -> None:
        if config.path is None:
            raise TeacherError("A teacher must have weights: set teacher.path; `architecture` alone is untrained")
        own = config.tokenizer is None
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(
            config.tokenizer or config.path, config.revision if own else None
        )
        self.model = load_causal_lm(
            config.path, config.dtype, config.revision, config.trust_remote_code, device, config.tensor_parallel
        )
        self.config, self._ranks = config, config.tensor_parallel
        self._dtype: DType = config.dtype
        self._valid = check_tokenizer(self.tokenizer, self._num_rows())
        self._memory: SlotMemory | None = None
        self.check_context(config.context, "teacher.context")

    @property
    def num_classes(self) -> int:
        """The valid vocabulary: padding rows of the model are cut off."""
        return self._valid

    def identity(self) -> dict[str, Any]:
        """Network, weights and dtype; the tokenizer has a digest of its own in the store's identity."""
        settings = network_settings(self.model.config)
        return {"type": "causal_lm", **model_identity(self.model, self._dtype, settings)}

    @torch.inference_mode()
    def window_logits(self, windows: Sequence[np.ndarray]) -> list[Tensor]:
        """Logits [T, valid vocabulary], in the dtype of the teacher, of each window of token ids [T]; one forward pass.

        Windows are padded on the right; with causal attention no padding reaches a real token.
        """
        lengths = [len(window) for window in windows]
        if not lengths or min(lengths) == 0:
            raise TeacherError(f"Every window must have at least one token, got lengths {lengths}")
        ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, window in enumerate(windows):
            ids[row, : lengths[row]] = torch.from_numpy(np.array(window, dtype=np.int64))
            mask[row, : lengths[row]] = 1
        device = self.model.device
        logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False).logits
        return [logits[row, :length, : self._valid] for row, length in enumerate(lengths)]

    def check_context(self, length: int, setting: str, whose: str = "the model") -> None:
        """TeacherError, which names `setting` and `whose` model this is, when it has fewer positions than `length`."""
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if isinstance(limit, int) and length > limit:
            raise TeacherError(
                f"{setting} must be within {whose}'s positions: {length} is more than {limit}. "
                f"Set {setting} to at most {limit}."
            )

    def check_slots(self, length: int) -> None:
        """TeacherError when this model cannot write texts, or none of so many tokens."""
        self.check_context(length, "synthesis.max_tokens (and a prompt's tokens)")
        check_memory(self.model, length)

    def begin_slots(self, slots: int, length: int) -> None:
        """Make room to write `slots` texts of up to `length` tokens; raises as `check_slots`.

        Whatever was being written is forgotten.
        """
        self.check_slots(length)
        self._memory = SlotMemory(self.model, slots, length)

    def keep_slots(self, slots: np.ndarray) -> None:
        """Let all slots go but these, int64 [n], which are slots 0 .. n - 1 from now on."""
        assert self._memory is not None
        self._memory.keep(slots)

    @torch.inference_mode()
    def decode(self, tokens: np.ndarray, positions: np.ndarray) -> Tensor:
        """Logits [n, valid vocabulary], in the dtype of the teacher, after a token int64 [n] more in each slot.

        It is at `positions` int64 [n] of its text; at 0 a new text begins in the slot.
        """
        assert self._memory is not None
        return self._memory.step(tokens, positions)[:, : self._valid]

    def window_features(self, windows: Sequence[np.ndarray], layers: Sequence[str]) -> list[tuple[Tensor, Tensor]]:
        """Logits as in `window_logits`, and the features float32 [T, D] of the modules `layers`, side by side.

        Raises ConfigError for a module that the model does not have, TeacherError for one without a row a token.
        """
        self._check_whole_layers()
        with Taps(self.model, layers) as taps:
            logits = self.window_logits(windows)
        found = []
        for row, window in enumerate(logits):
            parts = [self._per_token(taps.outputs[layer], layer, row, len(window)) for layer in layers]
            found.append((window, torch.cat(parts, dim=1)))
        return found

    def feature_layers(self, layers: Sequence[str]) -> ShapedLayers:
        """The shape (width,) of each of `layers`, from a pass over one token."""
        self._check_whole_layers()
        with Taps(self.model, layers) as taps:
            self.window_logits([np.zeros(1, np.int64)])
        return tuple((layer, (self._per_token(taps.outputs[layer], layer, 0, 1).shape[1],)) for layer in layers)

    def _per_token(self, output: Tensor, layer: str, row: int, length: int) -> Tensor:
        if output.ndim < 3 or output.shape[1] < length:
            raise TeacherError(
                f"labels.codec.layers needs outputs [batch, tokens, ...]; '{layer}' gives {list(output.shape)}"
            )
        return output[row, :length].reshape(length, -1).float()

    def _check_whole_layers(self) -> None:
        # Inside attention and MLP a rank sees its own share only, which a tap cannot tell from the whole.
        if self._ranks > 1:
            raise TeacherError(
                f"The codec `feature` needs a teacher that is not split, got teacher.tensor_parallel {self._ranks}: a "
                "module may hold a share of its features only. Set teacher.tensor_parallel to 1, or another codec."
            )

    def _num_rows(self) -> int:
        rows = self.model.get_output_embeddings().weight.shape[0]  # pyright: ignore
        return int(rows)
