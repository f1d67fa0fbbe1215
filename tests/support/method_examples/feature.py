"""What each loss of features needs besides its defaults; the layers are those of `tests.support.methods.FEATURES`."""

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {
    "attention_transfer": {"at": "maps"},
}
