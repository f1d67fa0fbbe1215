"""Loading tokenizers, and whether one fits a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdcore.errors import TokenizerMismatch, missing_extra

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Models pad their embeddings (Qwen2.5: 151,665 entries in 152,064 rows); more than this is another tokenizer.
_PADDING_ROWS = 128
_PADDING_SHARE = 0.05


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The Hugging Face tokenizer of a directory or hub name; never runs code that comes with it.

    Raises TokenizerMismatch when there is none to load.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise missing_extra("transformers", "text", "A tokenizer") from error
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise TokenizerMismatch(
            f"A tokenizer must load from files alone; '{path}' does not: {_first_line(error)}. Likely the path is "
            "wrong or tokenizer.json is missing. Set `tokenizer` of the teacher or the student."
        ) from error
    if not tokenizer.get_vocab():  # what an empty folder with a config.json gives
        raise TokenizerMismatch(f"A tokenizer must have entries; '{path}' has none. Set `tokenizer`.")
    return tokenizer


def valid_vocabulary(tokenizer: PreTrainedTokenizerBase) -> int:
    """One more than the largest id the tokenizer can produce; rows of the model above it are padding."""
    return max(tokenizer.get_vocab().values()) + 1


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, num_embeddings: int) -> int:
    """The valid vocabulary of the pair. Raises TokenizerMismatch when the model cannot belong to the tokenizer."""
    valid = valid_vocabulary(tokenizer)
    if valid > num_embeddings:
        raise TokenizerMismatch(
            f"Every token id needs a row of the model's embeddings: the tokenizer '{tokenizer.name_or_path}' has ids "
            f"up to {valid - 1}, the model {num_embeddings} rows. Likely they are of two models; set `tokenizer`."
        )
    padding = num_embeddings - valid
    if padding > max(_PADDING_ROWS, _PADDING_SHARE * valid):
        raise TokenizerMismatch(
            f"A model may have a few padding rows beyond its tokenizer: the tokenizer '{tokenizer.name_or_path}' has "
            f"{valid} entries, the model {num_embeddings} rows, {padding} too many. Likely the tokenizer is another "
            "model's; set `tokenizer`."
        )
    return valid


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
