"""Features of an unmodified model, by module path: what a forward pass leaves behind at chosen places.

`layer3` is what that module gives, `layer3:1` the second entry of a tuple that it gives, `relu:input` what goes into a
module (its pre-activations), and `logits` what the whole model gives, where no module has that name.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from kdcore.errors import ConfigError

__all__ = ["WHOLE", "Taps", "feature_shapes", "layer_of"]

WHOLE = "logits"
_SUFFIX = re.compile(r"(?P<path>.*):(?P<part>input|\d+)")


class Taps:
    """A context manager that keeps what goes through the places `paths` while it is open.

    `outputs` maps each path to the tensor of its last forward pass; of a tuple the first entry, unless the path says
    which. A tensor that the model changes in place afterwards is kept as it was: the first pass keeps copies of all,
    and shows which are needed. ConfigError for a path that the model does not have, naming the nearest ones.

    For errors: `whose` network it is, and, where `paths` is a mapping, by which setting each is named.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str] | Mapping[str, str], whose: str = "the model") -> None:
        self.whose, self._named = whose, dict(paths) if isinstance(paths, Mapping) else {}
        self._places = {path: self._found(model, path) for path in paths}
        self._hooks = ExitStack()
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
            self._hooks.enter_context(hook(keep))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        seen, self._seen = self._seen, {}
        if error is not None:
            return
        changed = {path for path, (tensor, version) in seen.items() if tensor._version != version}
        late = sorted(path for path in changed if not self._copied[path])
        self._copied.update({path: path in changed for path in seen})
        if late:
            raise ConfigError(
                f"features must stay what they are, but this pass of {self.whose} changed those of {late} in place, "
                "and earlier ones did not: tap the module that changes them"
            )

    def said(self, path: str) -> str:
        """The path, and the setting that names it, in words."""
        return f"'{path}' of {self._named[path]}" if path in self._named else f"'{path}'"

    def _found(self, model: nn.Module, path: str) -> tuple[nn.Module, str]:
        place = _place(model, path)
        if place is None:
            raise ConfigError(f"{self.whose} has no module {self.said(path)}; {_nearest(model, path)}")
        return place

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
                    f"a tap needs a module with a tensor at that place; {self.said(path)} in {self.whose} {what}: of a "
                    "tuple, `PATH:1` is the second entry"
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
        which = ", ".join(map(taps.said, missed))
        raise ConfigError(f"a forward pass of {taps.whose} does not come by {which}: tap modules that it calls")
    return {path: tuple(output.shape[1:]) for path, output in taps.outputs.items()}


def layer_of(model: nn.Module, path: str) -> nn.Module | None:
    """The module at `path`, also where the path leaves out a wrapper's only child; None where there is none."""
    while True:
        modules = dict(model.named_modules(remove_duplicate=False))
        if path and path in modules:
            return modules[path]
        children = list(model.children())
        if len(children) != 1:
            return None
        model = children[0]


def _place(model: nn.Module, path: str) -> tuple[nn.Module, str] | None:
    """The module and the part that a path names: `input`, a number, or nothing."""
    for name, part in _readings(path):
        found = layer_of(model, name)
        if found is not None or name == WHOLE:
            return (model if found is None else found), part
    return None


def _readings(path: str) -> list[tuple[str, str]]:
    """A path as a name, and as a name with a part."""
    match = _SUFFIX.fullmatch(path)
    return [(path, "")] + ([(match["path"], match["part"])] if match else [])


def _nearest(model: nn.Module, path: str) -> str:
    """Paths that are like it; where none is, the first ones."""
    names = [name for name, _ in model.named_modules() if name]
    near = difflib.get_close_matches(_readings(path)[-1][0], names, n=3)
    return f"nearest: {', '.join(near)}" if near else f"it has {', '.join(names[:6])}{', ...' if names[6:] else ''}"
