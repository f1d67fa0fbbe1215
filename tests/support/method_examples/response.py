"""What each loss of logits needs besides its defaults."""

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {
    "cross_entropy": {"smoothing": 0.1},
    "virtual_teacher": {},
    "cs_kd": {},
    "logits": {},
    "kl": {"temperature": 2.0},
    "reverse_kl": {},
    "jsd": {},
    "skew_kl": {},
    "skew_reverse_kl": {},
    "total_variation": {},
    "adaptive_kl": {},
    "conditional": {},
    "dkd": {},
    "rld": {},
    "nkd": {},
    "wsld": {},
    "ttm": {},
    "dist": {},
    "multi_level": {},
    "skd": {},
    "ctkd": {},
    "feature_norm": {"at": "vectors"},
    "heatmaps": {"at": "maps.wide"},
}
