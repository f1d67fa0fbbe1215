"""What each loss of gradients by pixels needs besides its defaults."""

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {"jacobian": {}, "gradient_attention": {}}
