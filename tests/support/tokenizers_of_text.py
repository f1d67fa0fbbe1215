"""Tokenizers of every family, trained on a few lines of text in many scripts."""

from functools import cache
from typing import Any

__all__ = ["FAMILIES", "LINES", "tokenizer_of"]

LINES = (
    "The quick brown fox jumps over the lazy dog; it is what foxes do, quickly.",
    "def compute(value: int) -> int:\n    return value * 2  # doubled\n",
    "Größe, naïve café, cafe\u0301, Straße und Übergröße",
    "日本語の文章と漢字、そして仮名。",
    "emoji: 😀😃👩\u200d👩\u200d👧 and 🇩🇪 flags",
    "русский текст и ещё немного текста",
    "tabs\tand\n\nlines  with   spaces   ",
)
FAMILIES = ("bytes", "byte-bpe-300", "byte-bpe-500", "bpe-fallback", "unigram", "wordpiece")


@cache
def tokenizer_of(family: str) -> Any:
    """A fast tokenizer of transformers with a BOS and an EOS, the same at every call."""
    from transformers import PreTrainedTokenizerFast

    backend = _backend(family)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _backend(family: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    specials = ["<unk>", "<s>", "</s>"]
    if family.startswith("byte"):
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
        backend.decoder = decoders.ByteLevel()
        size = 259 if family == "bytes" else int(family.split("-")[-1])
        letters = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=letters)
    elif family == "bpe-fallback":
        backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        bytes_ = [f"<0x{value:02X}>" for value in range(256)]
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*specials, *bytes_], limit_alphabet=60)
    elif family == "unigram":
        backend = Tokenizer(models.Unigram())
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=specials, unk_token="<unk>")
    else:
        backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=250, special_tokens=specials)
    backend.train_from_iterator(LINES * 3, trainer)
    return _without_special_bytes(backend) if family == "bpe-fallback" else backend


def _without_special_bytes(backend: Any) -> Any:
    """The bytes that are fallen back to are entries of the model, no added tokens."""
    import json

    content = json.loads(backend.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if not token["content"].startswith("<0x")]
    return type(backend).from_str(json.dumps(content))
