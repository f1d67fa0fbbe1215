"""A tiny BERT with a tokenizer of whole words, written to a directory as the real ones are."""

from collections.abc import Sequence
from pathlib import Path

import torch

WORDS = ["the", "a", "film", "was", "good", "bad", "great", "dull", "not", "very"]
ARCHITECTURE = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
}


def make_tokenizer(folder: Path, more: Sequence[str] = (), inputs: list[str] | None = None) -> Path:
    """A tokenizer of WORDS, and `more`, with BERT's special tokens; `inputs` names what it gives."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS, *more])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore
    made.post_processor = processors.TemplateProcessing(  # pyright: ignore
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    given = {} if inputs is None else {"model_input_names": inputs}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", **given
    )
    tokenizer.save_pretrained(folder)
    return folder


def make_encoder(folder: Path, num_classes: int = 2, seed: int = 0, **architecture: object) -> Path:
    """A BERT with random weights, and its tokenizer."""
    from transformers import BertConfig, BertForSequenceClassification

    make_tokenizer(folder)
    torch.manual_seed(seed)
    settings = {**ARCHITECTURE, "vocab_size": 4 + len(WORDS), "num_labels": num_classes, **architecture}
    settings.pop("model_type")
    BertForSequenceClassification(BertConfig(**settings)).save_pretrained(folder)
    return folder
