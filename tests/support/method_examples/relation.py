"""What each loss of relations needs besides its defaults; the layers are those of `tests.support.methods.FEATURES`."""

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {
    "fsp": {"at": ("maps.deep", "maps.wide")},
    "singular_vectors": {"at": ("maps.deep", "maps.wide")},
    "triplet_order": {"at": "vectors"},
    "dark_rank": {"at": "vectors"},
    "mhgd": {"at": ("maps.deep", "maps.wide"), "heads": 3},
    "rkd": {"at": "vectors"},
    "irg": {"at": ("maps", "maps.wide", "vectors")},
    "similarity_preserving": {"at": ("maps", "vectors")},
    "cckd": {"at": "vectors"},
    "learning_metrics": {"at": "vectors", "absolute_weight": 0.5},
    "pkt": {"at": "vectors"},
    "information_flow": {"at": ("maps", "vectors")},
    "locality": {"at": "vectors"},
    "crd": {"at": "vectors", "negatives": 6, "dimension": 5},
    "sskd": {"at": "tanh"},
    "local_correlation": {"at": "maps"},
    "pairwise_affinity": {"at": "maps"},
    "ranking": {"items": 3},
    "ickd": {"at": "maps"},
}
