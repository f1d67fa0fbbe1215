"""Writes talks.jsonl: made-up conversations about Python values, every answer computed. python configs/data/make_talks.py"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

WORDS = "apple bread cloud delta ember flint grove harbor island jasmine kettle lemon meadow north olive pepper".split()
SYSTEM = "You answer questions about Python values. Give the value first, then one sentence."

Question = tuple[str, Callable[[Any], Any], str]
OF_LISTS: list[Question] = [
    ("What is the length of `{}`?", len, "`len` counts the items."),
    ("What is the largest item of `{}`?", max, "`max` compares the items."),
    ("What does `sorted({})` give?", sorted, "It is a new list; the old one stays as it is."),
    ("What does `{}[::-1]` give?", lambda value: value[::-1], "A step of -1 reads the list from its end."),
    ("What is the sum of `{}`?", sum, "`sum` adds the items from left to right."),
    ("Which set does `set({})` make?", set, "A set keeps each item once."),
]
OF_TEXTS: list[Question] = [
    ("What is `len({})`?", len, "It counts characters, not bytes."),
    ("What does `{}.upper()` give?", str.upper, "Strings never change, so it is a new one."),
    ("What does `{}.title()` give?", str.title, "Every word begins with a capital letter."),
    ("What is `{}[0]`?", lambda value: value[0], "Indices begin at 0."),
    ("What does `{}.split()` give?", str.split, "Without an argument it splits at white space."),
    ("How often is the letter e in `{}`?", lambda value: value.count("e"), "`count` does the counting."),
    ("What is `{}.replace('e', '_')`?", lambda value: value.replace("e", "_"), "It replaces every occurrence."),
]
OF_NUMBERS: list[Question] = [
    ("What is `{} ** 2`?", lambda value: value**2, "`**` is the power."),
    ("What is `{} // 7`?", lambda value: value // 7, "`//` rounds down."),
    ("What is `{} % 7`?", lambda value: value % 7, "`%` gives what is left of the division."),
    ("What does `bin({})` give?", bin, "It is a string that begins with 0b."),
    ("What is `float({})`?", float, "The same number as a float."),
    ("Is `{}` even?", lambda value: value % 2 == 0, "An even number leaves 0 when divided by 2."),
]


def talk(choose: random.Random) -> dict[str, Any]:
    """One conversation of one to three questions about one value."""
    questions, value = choose.choice(
        [
            (OF_LISTS, [choose.randrange(30) for _ in range(choose.randint(2, 6))]),
            (OF_TEXTS, " ".join(choose.sample(WORDS, choose.randint(1, 3)))),
            (OF_NUMBERS, choose.randrange(1, 500)),
        ]
    )
    messages = [{"role": "system", "content": SYSTEM}] if choose.random() < 0.5 else []
    for ask, answer, reason in choose.sample(questions, choose.randint(1, 3)):
        messages.append({"role": "user", "content": ask.format(repr(value))})
        messages.append({"role": "assistant", "content": f"`{answer(value)!r}`. {reason}"})
    return {"messages": messages}


def main() -> None:
    """240 conversations, always the same."""
    choose = random.Random(2025)
    lines = [json.dumps(talk(choose)) for _ in range(240)]
    Path(__file__).with_name("talks.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
