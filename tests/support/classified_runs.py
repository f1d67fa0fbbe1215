"""A corpus of texts with classes that a tiny encoder can learn, and a recipe over it."""

import json
import random
from pathlib import Path
from typing import Any

from kdcore.config import Recipe
from tests.support.encoders import ARCHITECTURE, WORDS, make_encoder

GOOD, BAD = {"good", "great"}, {"bad", "dull"}


def write_texts(path: Path, number: int = 60) -> Path:
    """Lines of random words; the class says whether good words outnumber bad ones."""
    rng = random.Random(0)
    with path.open("w") as file:
        for _ in range(number):
            words = [rng.choice(WORDS) for _ in range(rng.randint(3, 9))]
            score = sum((word in GOOD) - (word in BAD) for word in words)
            file.write(json.dumps({"text": " ".join(words), "label": int(score > 0)}) + "\n")
    return path


def classified_recipe(root: Path, **changes: Any) -> Recipe:
    """A two-layer teacher with random weights and a one-layer student, on one CPU."""
    root.mkdir(parents=True, exist_ok=True)
    teacher = make_encoder(root / "teacher")
    values: dict[str, Any] = {
        "name": "classified",
        "runs": str(root / "runs"),
        "data": {
            "type": "classified_text",
            "path": str(write_texts(root / "texts.jsonl")),
            "num_classes": 2,
            "heldout_fraction": 0.2,
        },
        "teacher": {"type": "text_classifier", "path": str(teacher), "max_length": 12},
        "labels": {"unit_bytes": 1500},
        "student": {
            "type": "text_classifier",
            "architecture": {**ARCHITECTURE, "num_hidden_layers": 1},
            "max_length": 12,
        },
        "training": {"steps": 6, "batch_size": 8, "log_every_steps": 3},
        "cluster": {"replicas": 1, "workers": 1},
    }
    return Recipe.model_validate({**values, **changes})
