"""A teacher of 20,000 parameters and a few documents for it, made in seconds."""

import random
from pathlib import Path
from typing import Any

import torch

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "the",
    "dog",
    "ran",
    "to",
    "an",
    "old",
    "log",
    "while",
    "rain",
    "fell",
]


def write_documents(folder: Path, count: int) -> None:
    """Documents of different lengths; the first two are identical."""
    folder.mkdir(parents=True)
    for number in range(count):
        seed = max(number, 1)
        text = " ".join(WORDS[(seed * 7 + place * place) % len(WORDS)] for place in range(20 + 9 * seed % 60))
        (folder / f"doc{number:03d}.txt").write_text(text)


def write_teacher(folder: Path, seed: int = 0) -> None:
    """A byte-level tokenizer and a Llama that has learnt which words there are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        [" ".join(WORDS)], trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<end>", eos_token="<end>", pad_token="<end>")
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
            max_position_embeddings=128, bos_token_id=0, eos_token_id=0, pad_token_id=0,
        )
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    shuffle = random.Random(0)
    for _ in range(30):
        # Shuffled anew each time: it learns which words there are, not their order.
        words = shuffle.sample(WORDS * 3, 40)
        ids = torch.tensor([tokenizer.encode(" ".join(words))[:100]])
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def recipe(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """A labelling recipe over the documents and the teacher in `folder`; keyword arguments replace whole sections."""
    return {
        "name": name,
        "runs": str(folder / "runs"),
        "data": {"type": "text", "path": str(folder / "docs" / "*.txt"), "heldout_fraction": 0.0},
        "teacher": {
            "type": "causal_lm", "path": str(folder / "teacher"), "context": 24, "overlap": 8, "batch_tokens": 128,
        },
        "labels": {"unit_bytes": 600, "codec": {"type": "topk", "k": 4}},
        "cluster": {"replicas": 2, "cpus_per_replica": 0.5},
        **changes,
    }  # fmt: skip
