"""FEED: each of several teachers has layers of the student's own to be compared through.

Park and Kwak, "Feature-level Ensemble Knowledge Distillation for Aggregating Knowledge from Multiple Networks" (ECAI
2020), section 3.2: L1 of features brought to length one, the student's through three convolutions that are no part of
it. Of several teachers a recipe has one entry for each, with its `teacher`; their losses are summed.
"""

from torch import Tensor, nn

from kdcore.config.losses.teachers import FEEDTerm
from kdcore.losses.feature.factor_transfer import convolutions, factor_transfer
from kdcore.losses.method import LossInputs, MapMethod, Shapes
from kdcore.losses.projectors import project, same_size

__all__ = ["FEED"]


class FEED(MapMethod[FEEDTerm]):
    """Layers for each pair of maps, and the sum of their losses."""

    def __init__(self, term: FEEDTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.layers = self.for_pairs(shapes, self._layers)

    def _layers(self, ours: tuple[int, ...], theirs: tuple[int, ...]) -> nn.Module:
        return convolutions(ours[0], *[theirs[0]] * self.term.layers)

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        return factor_transfer(*same_size(project(self.layers[number], student), teacher))
