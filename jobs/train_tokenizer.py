"""`python -m jobs.train_tokenizer`: a byte-level BPE tokenizer from a recipe's training split."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.common import Overrides, RecipeFile, command, run_alone, say

if TYPE_CHECKING:
    from kdcore.config import Recipe

END_OF_TEXT = "<|endoftext|>"


@command
def train_tokenizer(
    recipe: RecipeFile,
    output: Annotated[Path, typer.Option(help="The directory to write; it must be empty or new.")],
    entries: Annotated[int, typer.Option(min=257, help="Entries: 256 bytes, the end of text, and merges.")] = 2048,
    overrides: Overrides = None,
) -> None:
    """Train a byte-level BPE tokenizer; `<|endoftext|>` (id 0) begins, ends and pads documents."""
    from kdcore.config.load import load_recipe
    from kdcore.errors import ConfigError

    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"--output must be a new or empty directory, got '{output}': nothing is overwritten")
    loaded = load_recipe(recipe, overrides or [])
    size = build_tokenizer(texts_of(loaded), entries, output)
    say(f"{output}: {size} entries, trained on the training split of {recipe}")


def texts_of(recipe: "Recipe") -> Iterator[str]:
    """The documents of the training split, unreadable ones skipped where the recipe says so."""
    from kdcore.data.document import TextDocument
    from kdcore.data.sources import open_source, readable
    from kdcore.errors import ConfigError

    source = open_source(recipe.data)
    if source.kind != "text":
        raise ConfigError(f"A tokenizer is trained on text; data.type is '{recipe.data.type}'. Set data.type: text")
    for _, document in readable(source, source.list("train"), recipe.data.on_unreadable):
        if isinstance(document, TextDocument):
            yield document.text


def build_tokenizer(texts: Iterator[str], entries: int, output: Path) -> int:
    """Trains on `texts` and writes a Hugging Face tokenizer directory; returns the number of entries.

    Raises DataError when the text is too small to learn that many.
    """
    from kdcore.errors import DataError, missing_extra

    try:
        from tokenizers import ByteLevelBPETokenizer
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise missing_extra("transformers", "text", "Training a tokenizer") from error
    trained = ByteLevelBPETokenizer(add_prefix_space=False)
    trained.train_from_iterator(
        texts, vocab_size=entries, min_frequency=2, special_tokens=[END_OF_TEXT], show_progress=False
    )
    found = trained.get_vocab_size()
    if found < entries:
        raise DataError(f"The text yields {found} entries, {entries} were asked for: set --entries, or add text")
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT
    )
    wrapped.save_pretrained(output)
    return found


if __name__ == "__main__":
    run_alone(train_tokenizer)
