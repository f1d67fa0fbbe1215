"""What a student's losses are told of the teacher: by itself, or by its store."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from kdcore.errors import ConfigError
from kdcore.labels.apart import ApartLabels
from kdcore.labels.feature import FeatureCodec
from kdcore.labels.mixing import arithmetic
from kdcore.labels.moments import LayerMoments
from kdcore.labels.soft_labels import DenseLabels, FeatureLabels, SoftLabels
from kdcore.losses.method import Answer
from kdcore.taps import WHOLE, Taps, feature_shapes
from kdcore.training.logits import logits_of

__all__ = ["Answer", "LiveTeacher", "NoTeacher", "StoredTeacher", "StoredTeachers", "TeacherSide"]

# As the forms count it: a class without mass, so that losses of logits stay finite.
_NOTHING = -87.0


class TeacherSide(Protocol):
    """Answers for the teacher."""

    @property
    def model(self) -> nn.Module | None:
        """The network, where it is live."""
        ...

    @property
    def each(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """The shapes of several teachers' features, one by one; empty of one."""
        ...

    @property
    def moments(self) -> tuple[LayerMoments, ...]:
        """What each teacher's store says of its features' mean and spread; empty without a store."""
        ...

    def shapes(self, inputs: Tensor) -> dict[str, tuple[int, ...]]:
        """Of its features by module path, without the batch; a live one looks at the inputs of one sample [1, ...]."""
        ...

    def answer(self, inputs: Tensor, labels: SoftLabels | None) -> Answer:
        """Of the inputs of N samples, or of their stored `labels`."""
        ...


class NoTeacher:
    """Of a student that learns from hard labels."""

    model: nn.Module | None = None
    each: tuple[dict[str, tuple[int, ...]], ...] = ()
    moments: tuple[LayerMoments, ...] = ()

    def shapes(self, inputs: Tensor) -> dict[str, tuple[int, ...]]:
        """None."""
        return {}

    def answer(self, inputs: Tensor, labels: SoftLabels | None) -> Answer:
        """Labels alone, if there are any."""
        return Answer(labels=labels)


class LiveTeacher:
    """The network itself: frozen, in eval mode, in its own dtype, run under no gradient; no part of what is trained."""

    each: tuple[dict[str, tuple[int, ...]], ...] = ()
    moments: tuple[LayerMoments, ...] = ()

    def __init__(self, model: nn.Module, paths: Sequence[str] | Mapping[str, str]) -> None:
        self._network = model.requires_grad_(False).eval()
        self._taps = Taps(model, paths, "the teacher")
        first = next(model.parameters())
        self._device, self._dtype = first.device, first.dtype

    @property
    def model(self) -> nn.Module | None:
        """See TeacherSide."""
        return self._network

    def _own(self, inputs: Tensor) -> Tensor:
        """On its device; inputs in its dtype, tokens are whole numbers."""
        return inputs.to(self._device, self._dtype if inputs.is_floating_point() else inputs.dtype)

    def shapes(self, inputs: Tensor) -> dict[str, tuple[int, ...]]:
        """See TeacherSide."""
        return feature_shapes(self._network, self._taps, self._own(inputs))

    def answer(self, inputs: Tensor, labels: SoftLabels | None) -> Answer:
        """See TeacherSide. Its answer to these very inputs; `labels` are not looked at."""
        # Not in inference mode, whose tensors cannot be saved for a backward pass.
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False), self._taps:
            logits = logits_of(self._network, self._own(inputs.detach()), "the teacher").float()
        features = {path: output.float() for path, output in self._taps.outputs.items()}
        return Answer(logits, features, DenseLabels(logits.log_softmax(1)))


class StoredTeacher:
    """A label store: `codec` decoded the labels. `paths` says by which setting each is named.

    `moments` are the mean and spread of its features, by layer.
    """

    model: nn.Module | None = None
    each: tuple[dict[str, tuple[int, ...]], ...] = ()

    def __init__(self, codec: object, paths: Mapping[str, str], moments: LayerMoments | None = None) -> None:
        self.moments: tuple[LayerMoments, ...] = (moments or {},)
        self._shapes: dict[str, tuple[int, ...]] = {}
        if isinstance(codec, FeatureCodec):
            known = codec.shape_of()
            self._shapes = {path: known[path] for path in (*paths, WHOLE) if path in known}
        missing = [path for path in paths if path not in self._shapes]
        if missing:
            which = "; ".join(f"'{path}' of {paths[path]}" for path in missing)
            raise ConfigError(
                f"the label store has no features of {which}: label with labels.codec: {{type: feature, layers: "
                "[...]}, or set training.live_teacher: true"
            )

    def shapes(self, inputs: Tensor) -> dict[str, tuple[int, ...]]:
        """See TeacherSide."""
        return self._shapes

    def answer(self, inputs: Tensor, labels: SoftLabels | None) -> Answer:
        """See TeacherSide. Log-probabilities stand for logits, of which they are a shift."""
        if isinstance(labels, DenseLabels):
            return Answer(labels.log_probs.clamp(min=_NOTHING), {}, labels)
        if not isinstance(labels, FeatureLabels):
            return Answer(None, {}, labels)
        count = labels.num_labels
        found = {path: labels.layer(path).reshape(count, *shape) for path, shape in self._shapes.items()}
        logits = found.get(WHOLE)
        return Answer(logits, found, None if logits is None else DenseLabels(logits.log_softmax(1)))


class StoredTeachers:
    """Several label stores whose labels are kept apart. `paths` says of each what a StoredTeacher is told."""

    model: nn.Module | None = None

    def __init__(
        self, codecs: Sequence[object], paths: Sequence[Mapping[str, str]], moments: Sequence[LayerMoments] = ()
    ) -> None:
        self.moments = tuple(moments) or ({},) * len(codecs)
        self._sides = [StoredTeacher(codec, named) for codec, named in zip(codecs, paths, strict=True)]
        self.each = tuple(side.shapes(torch.empty(0)) for side in self._sides)

    def shapes(self, inputs: Tensor) -> dict[str, tuple[int, ...]]:
        """None that are of all: a loss of features says which teacher's."""
        return {}

    def answer(self, inputs: Tensor, labels: SoftLabels | None) -> Answer:
        """See TeacherSide. What they say together is the mean of those that say a distribution."""
        assert isinstance(labels, ApartLabels)
        each = tuple(side.answer(inputs, part) for side, part in zip(self._sides, labels.parts, strict=True))
        said = [one.labels for one in each if one.labels is not None]
        if not said:
            return Answer(each=each)
        equal = torch.full((len(said),), 1 / len(said), dtype=torch.float64, device=inputs.device)
        mean = arithmetic(said, equal)
        logits = mean.log_probs.clamp(min=_NOTHING) if isinstance(mean, DenseLabels) else None
        return Answer(logits, {}, mean, each)
