"""What each loss of several teachers needs besides its defaults, here of one; see `feature`."""

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {
    "amtml": {"at": ("maps", "vectors")},
    "ae_kd": {},
    "feed": {"at": ("maps", "maps.wide")},
    "common_space": {"at": ("maps", "maps.wide"), "dimension": 5},
}
