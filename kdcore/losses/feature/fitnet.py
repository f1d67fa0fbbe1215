"""FitNets' hints: the student's features, through a regressor, are to be the teacher's.

Romero et al., "FitNets: Hints for Thin Deep Nets" (arXiv 1412.6550), eq. 3. RepDistiller and mdistiller take the mean
of squared differences instead of half their sum; `mode` says which. The regressor is mdistiller's: a convolution to the
teacher's size, BatchNorm, and the non-linearity of the hint layer. The paper trains with hints alone first: `until`.
"""

from torch import Tensor, nn

from kdcore.config.losses.feature import FitNetTerm
from kdcore.losses.method import FeatureMethod, LossInputs, Shapes
from kdcore.losses.numerics import wide
from kdcore.losses.projectors import ChannelNorm, project, require_places, same_size
from kdcore.losses.tokens import sample_mean, sample_sum

__all__ = ["FitNet", "hint_loss", "hint_regressor"]


def hint_loss(student: Tensor, teacher: Tensor, mode: str = "code", mask: Tensor | None = None) -> Tensor:
    """mean (s - t)^2 of features [B, ...] of one shape or, as the paper has it, the mean over samples of ||s - t||^2/2.

    Maps [B, C, H, W] are brought to the smaller one's H and W. Of tokens [B, L, D] those count where `mask` [B, L] is
    true, and the mean is one over samples of their tokens'.
    """
    if student.dim() == 4:
        student, teacher = same_size(student, teacher)
    squares = (wide(student) - wide(teacher)).square()
    return 0.5 * sample_sum(squares, mask) if mode == "paper" else sample_mean(squares, mask)


def hint_regressor(ours: tuple[int, ...], theirs: tuple[int, ...], relu: bool | None = None) -> nn.Module:
    """Features of shape `ours` to `theirs`: linear of vectors; of maps, a convolution that makes a larger map smaller.

    A map of a whole multiple of the teacher's size has a stride; another larger one a kernel of the difference and one
    (section 2.2 of the paper). A smaller one keeps its size: the loss averages the teacher's. `relu` None: of maps.
    """
    require_places(ours, theirs)
    maps = len(ours) == 3
    last = [nn.ReLU()] if relu or (relu is None and maps) else []
    if not maps:
        return nn.Sequential(nn.Linear(ours[-1], theirs[-1]), *last)
    stride = ours[1] // theirs[1]
    if stride > 1 and ours[1:] == (stride * theirs[1], stride * theirs[2]):
        layer = nn.Conv2d(ours[0], theirs[0], 3, stride=stride, padding=1)
    else:
        kernel = (max(ours[1] - theirs[1], 0) + 1, max(ours[2] - theirs[2], 0) + 1)
        layer = nn.Conv2d(ours[0], theirs[0], kernel)
    return nn.Sequential(layer, ChannelNorm(theirs[0]), *last)


class FitNet(FeatureMethod[FitNetTerm]):
    """A regressor for each pair of layers, and the sum of their losses."""

    def __init__(self, term: FitNetTerm, shapes: Shapes) -> None:
        super().__init__(term, shapes)
        self.regressors = self.for_pairs(shapes, lambda ours, theirs: hint_regressor(ours, theirs, term.relu))

    def pair(self, number: int, student: Tensor, teacher: Tensor, inputs: LossInputs) -> Tensor:
        """See FeatureMethod."""
        ours = project(self.regressors[number], student)
        return hint_loss(ours, teacher, self.term.mode, inputs.mask_of(teacher))
