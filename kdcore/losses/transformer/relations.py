"""MiniLM's relations: which tokens are alike, among a layer's queries, keys or values.

Wang et al., "MiniLM" (arXiv 2002.10957), of values with the networks' own heads; "MiniLMv2" (arXiv 2012.15828), of
queries, keys and values, cut into any number of heads, so that widths and heads may differ.
"""

from torch import Tensor

from kdcore.config.losses.transformer import RelationsTerm
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.transformer.attention import check_heads, map_distance, scores_of

__all__ = ["Relations"]


class Relations(FeatureMethod[RelationsTerm]):
    """Sum over `at` of KL(softmax(T T' / sqrt(d)), softmax(S S' / sqrt(d'))), means over heads, tokens, samples."""

    def __init__(self, term: RelationsTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        tapped = [shapes.student[path] for path in term.at] + [shapes.teacher[path] for path in term.teacher_paths]
        check_heads("minilm", term.heads, tapped)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod; `number` counts what `at` names, vectors [B, L, D]."""
        ours, theirs = (scores_of(given, given, self.term.heads) for given in (student, teacher))
        return map_distance(ours, theirs, inputs.mask)
