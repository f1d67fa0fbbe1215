"""`python -m jobs.train_tokenizer`: a byte-level BPE tokenizer from a recipe's training split."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.common import Overrides, RecipeFile, command, run_alone, say

if TYPE_CHECKING:
    from kdcore.config import Recipe

END_OF_TEXT = "<|endoftext|>"
_OF_ENCODERS = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}


@command
def train_tokenizer(
    recipe: RecipeFile,
    output: Annotated[Path, typer.Option(help="The directory to write; it must be empty or new.")],
    entries: Annotated[int, typer.Option(min=257, help="Entries: 256 bytes, special ones, and merges.")] = 2048,
    overrides: Overrides = None,
) -> None:
    """Train a byte-level BPE tokenizer; `<|endoftext|>` (id 0) begins, ends and pads documents.

    For texts with classes, one as encoders have it: [PAD] is 0, and [CLS] text [SEP] what a text becomes.
    """
    from kdcore.config.data import kind_of
    from kdcore.config.load import load_recipe
    from kdcore.errors import ConfigError

    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"--output must be a new or empty directory, got '{output}': nothing is overwritten")
    loaded = load_recipe(recipe, overrides or [])
    build = build_encoder_tokenizer if kind_of(loaded.data) == "classified_text" else build_tokenizer
    size = build(texts_of(loaded), entries, output)
    say(f"{output}: {size} entries, trained on the training split of {recipe}")


def texts_of(recipe: "Recipe") -> Iterator[str]:
    """The documents of the training split, unreadable ones skipped where the recipe says so; both texts of a pair."""
    from kdcore.data.document import ClassifiedText, TextDocument
    from kdcore.data.sources import open_source, readable
    from kdcore.errors import ConfigError

    source = open_source(recipe.data)
    if source.kind == "image":
        raise ConfigError(f"A tokenizer is trained on text; data.type is '{recipe.data.type}'. Set data.type: text")
    for _, document in readable(source, source.list("train"), recipe.data.on_unreadable):
        if isinstance(document, TextDocument | ClassifiedText):
            yield document.text
        if isinstance(document, ClassifiedText) and document.pair is not None:
            yield document.pair


def build_tokenizer(texts: Iterator[str], entries: int, output: Path) -> int:
    """Trains on `texts` and writes a Hugging Face tokenizer directory; returns the number of entries.

    Raises DataError when the text is too small to learn that many.
    """
    trained = _train(texts, entries, [END_OF_TEXT])
    return _save(trained, output, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)


def build_encoder_tokenizer(texts: Iterator[str], entries: int, output: Path) -> int:
    """As `build_tokenizer`, with the special tokens and the token types that encoders have."""
    trained = _train(texts, entries, list(_OF_ENCODERS.values()))
    from tokenizers.processors import TemplateProcessing

    marks = [(token, trained.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    pair = "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1"
    trained.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=marks)
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return _save(trained, output, model_input_names=inputs, **_OF_ENCODERS)


def _train(texts: Iterator[str], entries: int, special: list[str]) -> Any:
    from kdcore.errors import DataError, missing_extra

    try:
        from tokenizers import ByteLevelBPETokenizer
    except ImportError as error:
        raise missing_extra("transformers", "text", "Training a tokenizer") from error
    trained = ByteLevelBPETokenizer(add_prefix_space=False)
    trained.train_from_iterator(texts, vocab_size=entries, min_frequency=2, special_tokens=special, show_progress=False)
    found = trained.get_vocab_size()
    if found < entries:
        raise DataError(f"The text yields {found} entries, {entries} were asked for: set --entries, or add text")
    return trained._tokenizer


def _save(trained: Any, output: Path, **settings: Any) -> int:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=trained, **settings).save_pretrained(output)
    return trained.get_vocab_size()


if __name__ == "__main__":
    run_alone(train_tokenizer)
