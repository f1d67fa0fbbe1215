"""Tokenizers as the data need them: loading, encoding of whole documents, and whether one fits a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kdcore.models.tokenizer import check_tokenizer, load_tokenizer, valid_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["check_tokenizer", "encode_document", "load_tokenizer", "valid_vocabulary"]


def encode_document(tokenizer: PreTrainedTokenizerBase, text: str) -> np.ndarray:
    """Token ids int64 [T] of a whole document: the BOS first and the EOS last, where the tokenizer has them.

    Special tokens spelled out inside the text are text: a document about `<|endoftext|>` does not end there.
    """
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False)
    first = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    last = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    return np.asarray([*first, *ids, *last], dtype=np.int64)
