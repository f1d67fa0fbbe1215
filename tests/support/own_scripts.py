"""A label store, a student on disk and a launcher, for tests of scripts of one's own."""

import importlib
import os
import runpy
from pathlib import Path
from typing import Any

import torch

from tests.support.training import TOKENIZER, text_recipe, write_corpus, write_labels


def write_store(root: Path) -> Path:
    """ROOT/labels: twelve ragged documents, one of them twice."""
    write_corpus(root / "corpus")
    recipe = text_recipe(root, "labels", teacher=True)
    write_labels(recipe)
    return root / "labels"


def tiny_student(classes: int | None = None, **changes: Any) -> Any:
    """A causal LM of two layers for the tokenizer of the store (or for fewer classes), the same each time."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    vocabulary = len(AutoTokenizer.from_pretrained(TOKENIZER)) if classes is None else classes
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **{**sizes, **changes}))


def write_student(folder: Path) -> Path:
    """A student and its tokenizer, as `from_pretrained` reads them."""
    from transformers import AutoTokenizer

    tiny_student().save_pretrained(folder)
    AutoTokenizer.from_pretrained(TOKENIZER).save_pretrained(folder)
    return folder


def as_torchrun_would(rank: int, world: int) -> None:
    """$SCRIPT as one of the ranks that torchrun starts, with the environment that it gives them."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    runpy.run_path(os.environ["SCRIPT"], run_name="__main__")


if __name__ == "__main__":  # runs $SCRIPT as it is, but for what DeepSpeed would compile for CPUs: a minute
    importlib.import_module("deepspeed.ops").__compatible_ops__["deepspeed_shm_comm"] = False
    if "RANK" in os.environ:
        runpy.run_path(os.environ["SCRIPT"], run_name="__main__")
    else:  # ranks that are forked need not each import all
        importlib.import_module("transformers.models.llama.modeling_llama")
        torch.multiprocessing.start_processes(as_torchrun_would, (2,), nprocs=2, start_method="fork")
