"""What each loss of relations needs besides its defaults; the layers are those of `tests.support.methods.FEATURES`."""

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {
    "rkd": {"at": "vectors"},
    "similarity_preserving": {"at": ("maps", "vectors")},
    "cckd": {"at": "vectors"},
    "pkt": {"at": "vectors"},
    "crd": {"at": "vectors", "negatives": 6, "dimension": 5},
    "ickd": {"at": "maps"},
}
