"""What each loss of features needs besides its defaults; the layers are those of `tests.support.methods.FEATURES`."""

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {
    "fitnet": {"at": ("maps", "vectors")},
    "nst": {"at": ("maps", "maps.wide")},
    "attention_transfer": {"at": "maps"},
    "factor_transfer": {"at": ("maps", "maps.wide")},
    "activation_boundary": {"at": ("maps", "tokens")},
    "ofd": {"at": ("maps", "maps.wide")},
    "sem_ckd": {"at": ("maps", "maps.wide"), "teacher_at": "maps", "batch": 8},
    "vid": {"at": ("maps", "vectors")},
    "review_kd": {"at": ("maps", "maps.wide", "vectors")},
    "sim_kd": {"at": "maps.wide"},
}
