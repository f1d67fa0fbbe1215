"""What each loss of features needs besides its defaults; the layers are those of `tests.support.methods.FEATURES`."""

from typing import Any

EXAMPLES: dict[str, dict[str, Any]] = {
    "fitnet": {"at": ("maps", "vectors")},
    "nst": {"at": ("maps", "maps.wide")},
    "attention_transfer": {"at": "maps"},
    "factor_transfer": {"at": ("maps", "maps.wide")},
    "activation_boundary": {"at": ("maps", "tokens")},
    "ofd": {"at": ("maps", "maps.wide")},
    "adain": {"at": "maps"},
    "sem_ckd": {"at": ("maps", "maps.wide"), "teacher_at": "maps", "batch": 8},
    "vid": {"at": ("maps", "vectors")},
    "tofd": {"at": ("maps", "maps.wide")},
    "pad": {"at": ("maps", "vectors", "tokens")},
    "matching_guided": {"at": ("maps", "maps.wide"), "every": 2},
    "review_kd": {"at": ("maps", "maps.wide", "vectors")},
    "sim_kd": {"at": "maps.wide"},
    "cat_kd": {"at": "maps.wide"},
    "masked_generative": {"at": ("maps", "maps.wide")},
    "wkd_feature": {"at": ("maps", "maps.wide"), "grid": 2},
    "knowledge_adaptation": {"at": ("maps", "maps.wide")},
    "cka": {"at": ("maps", "vectors", "tokens")},
    "srd": {"at": ("maps", "vectors")},
}
