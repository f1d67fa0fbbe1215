"""What each loss of logits needs besides its defaults."""

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {
    "cross_entropy": {"smoothing": 0.1},
}
