"""A label store of texts as a torch dataset, for training loops of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from kdcore.config.training import LongDocuments, TrainingConfig
from kdcore.errors import ConfigError
from kdcore.labels.soft_labels import SoftLabels
from kdcore.store.mix.mix import LabelMix
from kdcore.store.reader import LabelStore, open_store
from kdcore.store.storage.places import Location
from kdcore.training.attention import choose_layout
from kdcore.training.batches import TextBatch
from kdcore.training.packing import Layout
from kdcore.training.text_samples import StoreRows, TextSamples, check_same_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kdcore.training.stored_labels import Labelled

__all__ = ["LabelledSequence", "LabelledText"]


class LabelledText(Dataset["LabelledSequence"]):
    """The sequences of a label store of texts: as many of each document as the input has copies of it.

        DataLoader(data, batch_size=16, shuffle=True, num_workers=2, collate_fn=data.collate)

    Works with samplers, worker processes (forked or spawned) and Trainer (`collate_for_trainer`). Documents are joined
    with their labels; a next token that the store has no label for (prompts, the user's turns) is not trained.
    """

    def __init__(
        self,
        store: Labelled | Location,
        tokenizer: PreTrainedTokenizerBase | None,
        sequence_length: int = 1024,
        long_documents: LongDocuments = "refuse",
        packing_for: nn.Module | None = None,
    ) -> None:
        """Opens `store`, unless it is open, as a mix of several is (`kdcore.open_mix`).

        Sequences have at most `sequence_length` input tokens.

        `tokenizer` is the student's, compared with the one that the labels were made with; None skips this check, for
        tokens that nobody will spell out. Documents that are longer than a sequence: docs/training.md#long-documents.
        `packing_for` is a causal LM of transformers: batches have several sequences a row, in rows of at most
        `sequence_length`, if it keeps them apart, which is tried out here on a few tokens.

        Raises ConfigError for a store of images, a mix that differs from epoch to epoch and a model that mixes packed
        sequences, IdentityMismatch for another tokenizer, DataError for documents that are too long or no token to
        learn; and what `open_store` raises.
        """
        opened = store if isinstance(store, LabelStore | LabelMix) else open_store(store)
        if opened.kind != "text":
            raise ConfigError(
                f"LabelledText needs a label store of texts, but '{opened.described}' holds labels of {opened.kind}s: "
                "train these with `kd train`, or read them with kdcore.open_store and pass them to "
                "kdcore.soft_target_loss"
            )
        if opened.changes:
            raise ConfigError(
                f"{opened.described} takes another teacher in every epoch, and LabelledText knows of no epochs: the "
                "first one's would stay throughout. Open it with another rule, such as arithmetic, or train with a "
                "recipe"
            )
        if tokenizer is not None:
            check_same_tokenizer(opened, tokenizer)
        self.store = opened
        self._samples = TextSamples(StoreRows(opened), sequence_length, True, long_documents)
        self._layout: Layout = "padded" if packing_for is None else _checked_layout(packing_for)
        self.notes: tuple[str, ...] = (*self._samples.notes, *opened.notes)
        """What happened to long documents, in words."""

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def lengths(self) -> np.ndarray:
        """Input tokens of each sequence, int64 [len]: for samplers that put like lengths together."""
        return self._samples.lengths

    def __getitem__(self, index: int) -> LabelledSequence:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sequence {index} of {len(self)}")
        return LabelledSequence(self, index % len(self))

    def collate(self, sequences: Sequence[LabelledSequence]) -> TextBatch:
        """Sequences as a batch, padded on the right or packed; their labels are read and decoded here, all at once."""
        if any(sequence.data is not self for sequence in sequences):
            raise ConfigError(
                "a batch takes sequences of one LabelledText, by its own `collate`, but some are of another: join the "
                "stores first (`kd store merge`)"
            )
        indices = np.array([sequence.index for sequence in sequences], dtype=np.int64)
        return self._samples.batch(indices, self._layout)

    def collate_for_trainer(self, sequences: Sequence[LabelledSequence]) -> dict[str, Any]:
        """What Trainer passes to a model: `batch`, for with_distillation_loss, beside what Trainer itself looks at.

        It counts the `labels` of all micro-batches and ranks of a step for the model to divide by; `shift_labels` says
        that they are the next tokens already, of which none is to be left out.
        """
        batch = self.collate(sequences)
        counted = {"labels": batch.targets, "shift_labels": batch.targets}
        return {"batch": batch, "input_ids": batch.input_ids, **counted}


@dataclass(frozen=True)
class LabelledSequence:
    """One sequence, by number; what it holds is read when it is asked for."""

    data: LabelledText
    index: int

    @property
    def batch(self) -> TextBatch:
        """A batch of it alone."""
        return self.data.collate([self])

    @property
    def input_ids(self) -> torch.Tensor:
        """Its tokens, int64 [T]."""
        return self.batch.input_ids[0]

    @property
    def positions(self) -> torch.Tensor:
        """After which tokens the next one is labelled, int64 [N], rising."""
        return self.batch.positions

    @property
    def targets(self) -> torch.Tensor:
        """The next tokens there, int64 [N]."""
        return self.batch.targets

    @property
    def labels(self) -> SoftLabels | None:
        """What the teacher says there, N soft labels."""
        return self.batch.labels


def _checked_layout(model: nn.Module) -> Layout:
    """Rows under a mask, which any device and type can do; a GPU's attention by borders would change the model."""
    return choose_layout(model, TrainingConfig(steps=1, packing=True), torch.device("cpu"))[0]
