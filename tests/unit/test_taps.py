"""Features by module path."""

import pytest
import torch
from torch import nn

from kdcore.errors import ConfigError
from kdcore.taps import Taps


class Pair(nn.Module):
    """A module whose output is a tuple, as attention's is."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return 2 * x, None


def test_outputs_by_path():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.ReLU(), Pair()))
    x = torch.randn(2, 3)
    with Taps(model, ["0", "1.1"]) as taps:
        model(x)
    hidden = model[0](x)
    torch.testing.assert_close(taps.outputs["0"], hidden)
    torch.testing.assert_close(taps.outputs["1.1"], 2 * hidden.relu())


def test_what_goes_in_and_which_entry_of_a_tuple():
    class Both(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, 3 * x

    class First(nn.Module):
        def forward(self, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return pair[0]

    model = nn.Sequential(nn.Linear(3, 3), Both(), First())
    x = torch.randn(2, 3)
    paths = ["1:input", "1", "1:0", "1:1", "0:0", "logits"]
    with Taps(model, paths) as taps:
        model(x)
    hidden = model[0](x)
    for path in paths:
        torch.testing.assert_close(taps.outputs[path], 3 * hidden if path == "1:1" else hidden)
    with Taps(model, ["1:2"]), pytest.raises(ConfigError, match=r"'1:2' in the model gives tuple.*the second entry"):
        model(x)
    with Taps(model, ["2:input"]), pytest.raises(ConfigError, match="'2:input' in the model is given tuple"):
        model(x)
    with Taps(model, ["0:1"]), pytest.raises(ConfigError, match="'0:1' in the model gives Tensor"):
        model(x)
    with pytest.raises(ConfigError, match=r"no module '5:input'"):
        Taps(model, ["5:input"])


def test_hooks_are_gone_afterwards():
    model = nn.Sequential(nn.Linear(3, 4))
    with Taps(model, ["0"]) as taps:
        model(torch.zeros(1, 3))
    first = taps.outputs["0"]
    model(torch.ones(1, 3))
    assert taps.outputs["0"] is first
    assert not model[0]._forward_hooks


def test_an_unknown_path_is_answered_with_the_nearest():
    model = nn.Sequential()
    model.add_module("layers", nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)]))
    with pytest.raises(ConfigError, match=r"no module 'layers.2'; nearest: layers\.[01]"):
        Taps(model, ["layers.2"])


def test_an_output_that_is_no_tensor_is_refused():
    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"x": x}

    model = nn.Sequential(Nothing())
    with Taps(model, ["0"]), pytest.raises(ConfigError, match="'0' in the model gives dict"):
        model(torch.zeros(1))
