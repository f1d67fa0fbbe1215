"""The clock around a teacher's forward passes, and what its labels would take at the peak."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from cluster.labelling.replica.speed import ForwardClock, pass_flops, peak_flops
from kdcore.store import Receipt

SIZES = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}


@pytest.mark.parametrize("tied", [True, False])
def test_a_token_takes_two_operations_a_multiplied_parameter(tied: bool) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))
    attention, mlp, norms, head = 4 * 8 * 8, 3 * 8 * 12, 3 * 8, 20 * 8
    assert pass_flops(model) == 2 * (attention + mlp + norms + head)


def test_operations_of_an_image_are_counted() -> None:
    model = nn.Conv2d(3, 5, kernel_size=3, padding=1, bias=False)
    assert pass_flops(model, torch.zeros(1, 3, 4, 4)) == 2 * (3 * 5 * 9) * 16


def test_only_forward_passes_are_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Slow(nn.Linear):
        def forward(self, values: torch.Tensor) -> torch.Tensor:
            now[0] += 2.0
            return values

    monkeypatch.setattr("cluster.labelling.replica.speed.time.perf_counter", lambda: now[0])
    model = Slow(1, 1)
    clock = ForwardClock(model, ideal_seconds=0.01)
    for _ in range(3):
        model(torch.zeros(1))
        now[0] += 100.0
    receipt = clock.noted(Receipt("unit-1", "data/1.arrow", 1, 7, 9, "d", "u"), read=40)
    assert receipt.forward_seconds == 6.0
    assert receipt.ideal_seconds == pytest.approx(0.4)
    assert clock.take() == 0.0


def test_a_known_gpu_has_its_makers_peak_in_16_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    assert peak_flops(torch.device("cuda"), torch.bfloat16) == 989e12


def test_the_peak_of_a_cpu_is_measured() -> None:
    assert 1e6 < peak_flops(torch.device("cpu"), torch.float32) < 1e14
