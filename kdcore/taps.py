"""Features of an unmodified model, by module path: what a forward pass leaves behind at chosen places.

`layer3` is what that module gives, `layer3:1` the second entry of a tuple that it gives, `relu:input` what goes into a
module (its pre-activations), and `logits` what the whole model gives, where no module has that name.
"""

import difflib
import re
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import ConfigError

__all__ = ["WHOLE", "Taps", "feature_shapes"]

WHOLE = "logits"
_SUFFIX = re.compile(r"(?P<path>.*):(?P<part>input|\d+)")


class Taps:
    """A context manager that keeps what goes through the places `paths` while it is open.

    `outputs` maps each path to the tensor of its last forward pass; of a tuple the first entry, unless the path says
    which. A tensor that the model changes in place afterwards is kept as it was: the first pass keeps copies of all,
    and shows which are needed. ConfigError for a path that the model does not have, naming the nearest ones.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self._places = {path: _place(model, path) for path in paths}
        self._handles: list[Any] = []
        self._copied = dict.fromkeys(paths, True)
        self._seen: dict[str, tuple[Tensor, int]] = {}
        self.outputs: dict[str, Tensor] = {}

    @property
    def paths(self) -> set[str]:
        """As they were given."""
        return set(self._places)

    def __enter__(self) -> "Taps":
        self.outputs = {}
        for path, (module, part) in self._places.items():
            keep = self._keeper(path, part)
            hook = module.register_forward_pre_hook if part == "input" else module.register_forward_hook
            self._handles.append(hook(keep))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()
        seen, self._seen = self._seen, {}
        if error is not None:
            return
        changed = {path for path, (tensor, version) in seen.items() if tensor._version != version}
        late = sorted(path for path in changed if not self._copied[path])
        self._copied.update({path: path in changed for path in seen})
        if late:
            raise ConfigError(
                f"features must stay what they are, but this pass changed those of {late} in place, and earlier ones "
                "did not: tap the module that changes them"
            )

    def _keeper(self, path: str, part: str) -> Any:
        def keep(module: nn.Module, given: Any, output: Any = None) -> None:
            found = given if part == "input" else output
            if isinstance(found, tuple | list):
                number = int(part) if part.isdigit() else 0
                found = found[number] if number < len(found) else None
            elif part.isdigit() and part != "0":
                found = None
            if not isinstance(found, Tensor):
                what = f"is given {type(given).__name__}" if part == "input" else f"gives {type(output).__name__}"
                raise ConfigError(
                    f"a tap needs a module with a tensor at that place; '{path}' {what}: of a tuple, `PATH:1` is the "
                    "second entry"
                )
            if not found.is_inference():  # such tensors do not count their changes
                self._seen[path] = found, found._version
            self.outputs[path] = found.clone() if self._copied[path] else found

        return keep


def feature_shapes(model: nn.Module, taps: Taps, pixels: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes at `taps`, without the batch, from a pass over one sample [1, ...] that leaves `model` as it is.

    In eval mode and without gradients, so that no statistics change. ConfigError for a place that the pass does not
    come by.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), taps:
            model(pixels)
    finally:
        for module, mode in modes.items():
            module.training = mode
    missed = sorted(taps.paths - taps.outputs.keys())
    if missed:
        raise ConfigError(f"a forward pass does not come by {missed}: tap modules that the model calls")
    return {path: tuple(output.shape[1:]) for path, output in taps.outputs.items()}


def _place(model: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The module and the part that a path names: `input`, a number, or nothing."""
    modules = dict(model.named_modules(remove_duplicate=False))
    prefix, inner = "", model
    while True:
        for name, part in _readings(path):
            if name and prefix + name in modules:
                return modules[prefix + name], part
            if name == WHOLE:
                return model, part
        children = list(inner.named_children())
        if len(children) != 1:  # a wrapper's only child is what the person means
            break
        prefix, inner = f"{prefix}{children[0][0]}.", children[0][1]
    near = difflib.get_close_matches(_readings(path)[-1][0], [name for name in modules if name], n=3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise ConfigError(f"the model has no module '{path}'{hint}")


def _readings(path: str) -> list[tuple[str, str]]:
    """A path as a name, and as a name with a part."""
    match = _SUFFIX.fullmatch(path)
    return [(path, "")] + ([(match["path"], match["part"])] if match else [])
