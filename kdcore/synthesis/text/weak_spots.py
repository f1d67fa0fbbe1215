"""Texts that a student has most to learn from: where it differs most from the teacher that wrote them."""

from collections.abc import Sequence

import numpy as np

__all__ = ["disagreement", "weakest"]


def disagreement(teacher: Sequence[np.ndarray], student: Sequence[np.ndarray]) -> np.ndarray:
    """How much likelier each text is to its teacher than to a student, nats a token, float64 [R].

    Both are log-probabilities [T - 1] of the texts' next tokens. Of texts drawn at temperature 1 the mean is an
    unbiased estimate of the divergence KL(teacher || student), at the cost of one pass of the student.
    """
    pairs = zip(teacher, student, strict=True)
    return np.array([(ours.astype(np.float64) - theirs).mean() for ours, theirs in pairs])


def weakest(differences: np.ndarray, share: float) -> np.ndarray:
    """The rows of the largest `share` of the differences [R], at least one, rising; of equal ones the first."""
    count = max(1, round(share * len(differences)))
    return np.sort(np.argsort(-differences, kind="stable")[:count])
