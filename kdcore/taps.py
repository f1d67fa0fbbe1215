"""Features of an unmodified model, by module path: what a forward pass leaves behind at chosen places."""

import difflib
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from kdcore.errors import ConfigError

__all__ = ["Taps"]


class Taps:
    """A context manager that keeps the outputs of the modules at `paths` while it is open.

    `outputs` maps each path to the tensor of its last forward pass; of a tuple the first entry. ConfigError for a path
    that the model does not have, naming the nearest ones.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self._modules = {path: _module(model, path) for path in paths}
        self._handles: list[Any] = []
        self.outputs: dict[str, Tensor] = {}

    def __enter__(self) -> "Taps":
        for path, module in self._modules.items():
            self._handles.append(module.register_forward_hook(self._keep(path)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._handles:
            self._handles.pop().remove()

    def _keep(self, path: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple | list) else output
            if not isinstance(first, Tensor):
                raise ConfigError(
                    f"a tap needs a module whose output is a tensor; '{path}' gives {type(output).__name__}"
                )
            self.outputs[path] = first

        return hook


def _module(model: nn.Module, path: str) -> nn.Module:
    modules = dict(model.named_modules())
    if path in modules and path:
        return modules[path]
    near = difflib.get_close_matches(path, [name for name in modules if name], n=3)
    hint = f"; nearest: {', '.join(near)}" if near else ""
    raise ConfigError(f"the model has no module '{path}'{hint}")
