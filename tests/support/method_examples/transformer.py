"""What each loss of transformers needs besides its defaults; `tokens` stand for queries, keys and values too."""

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {
    "pkd": {"at": "tokens"},
    "hidden_states": {"at": "tokens"},
    "hidden_cosine": {"at": "tokens"},
    "mobilebert": {"at": "tokens"},
    "lrc_bert": {"at": "tokens"},
    "alp": {"at": "tokens", "teacher_at": ["tokens", "tokens.late"]},
    "attention_scores": {"at": ["tokens", "tokens.late"], "heads": 2},
    "attention_maps": {"at": ["tokens", "tokens.late"], "heads": 2},
    "minilm": {"at": ["tokens", "tokens.late"], "heads": 4},
}
