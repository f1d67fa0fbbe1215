"""Made-up conversations and prompts, and a tiny chat teacher for them."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.support.chat_tokenizer import CHATML, chat_tokenizer
from tests.support.tiny_teacher import WORDS

CHAT, PROMPT = {"messages_field": "messages"}, {"prompt_field": "question", "completion_field": "answer"}


def words(seed: int, count: int) -> str:
    return " ".join(WORDS[(seed * 7 + place * place) % len(WORDS)] for place in range(count))


def write_rows(folder: Path, count: int = 8) -> None:
    """FOLDER/chat.jsonl and FOLDER/qa.jsonl; the first two rows are identical, the last ones have nothing to learn."""
    folder.mkdir(parents=True, exist_ok=True)
    chats, prompts = [], []
    for number in (max(number, 1) for number in range(count)):
        turns = [{"role": "system", "content": words(number, 3)}] if number % 2 else []
        for turn in range(1 + number % 3):
            turns += [{"role": "user", "content": words(number + turn, 2 + 5 * number % 7)}]
            turns += [{"role": "assistant", "content": words(number * turn, 3 + number % 4)}]
        chats.append({"messages": turns, "id": number})
        prompts.append({"question": words(number, 2 + number), "answer": words(number + 1, 1 + 3 * number % 5)})
    chats.append({"messages": [{"role": "user", "content": "who is there"}]})
    prompts.append({"question": "who is there", "answer": ""})
    for name, rows in (("chat", chats), ("qa", prompts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_chat_teacher(folder: Path, template: str | None = CHATML) -> None:
    """A Llama behind the chat tokenizer that has learnt a little of the words and the turns."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = chat_tokenizer(template)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=256, tie_word_embeddings=True, initializer_range=0.1,
    )  # fmt: skip
    model: Any = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    turn = f"<|im_start|>user\n{words(3, 9)}<|im_end|>\n<|im_start|>assistant\n{words(4, 17)}<|im_end|>\n"
    ids = torch.tensor([tokenizer.encode(turn, add_special_tokens=False)])
    for _ in range(40):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def data(folder: Path, name: str, **settings: Any) -> dict[str, Any]:
    """The `data` section for FOLDER/NAME.jsonl."""
    shape = CHAT if name == "chat" else PROMPT
    return {"type": "text", "path": str(folder / f"{name}.jsonl"), "heldout_fraction": 0.0, **shape, **settings}
