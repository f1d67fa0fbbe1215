"""Codec `feature`: rounding, saturation, scales."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.errors import LabelError, StoreError
from kdcore.labels import FeatureCodec, FeatureLabels, codec_from_spec
from tests.support.labels import logits_of, no_seeds, round_trip

LAYERS = (("model.layers.1", 5), ("pooled", 3))


def features_of(codec: FeatureCodec, outputs: torch.Tensor) -> torch.Tensor:
    labels = round_trip(codec, outputs)
    assert isinstance(labels, FeatureLabels)
    assert labels.layers == codec.layers
    assert labels.features.dtype == torch.float32
    return labels.features


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-4, 1e4))
def test_float16_is_off_by_half_a_step_at_most(seed, scale):
    outputs = logits_of(20, 8, seed, scale)
    outputs.clamp_(-65_504, 65_504)
    error = (features_of(FeatureCodec(LAYERS), outputs).double() - outputs.double()).abs()
    step = torch.maximum(outputs.double().abs(), torch.tensor(2.0**-14)).log2().floor().exp2() * 2**-10
    assert (error <= step / 2).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(1e-6, 1e6))
def test_int8_is_off_by_half_a_step_at_most_inside_its_range(seed, scale):
    probe = logits_of(50, 8, seed, scale)
    codec = FeatureCodec.learn(LAYERS, probe)
    assert codec.scales is not None
    steps = torch.from_numpy(codec.scales).double()
    error = (features_of(codec, probe).double() - probe.double()).abs()
    assert (error <= steps / 2 * (1 + 1e-5)).all()
    torch.testing.assert_close(steps * 127, probe.double().abs().amax(0) * 1.25, rtol=1e-5, atol=0)


def test_int8_saturates_outside_its_range_and_keeps_the_sign():
    codec = FeatureCodec.learn(LAYERS, torch.ones(2, 8))
    found = features_of(codec, torch.tensor([[9.0, -9, 1.25, -1.25, 1, 0, 1e30, -1e30]]))
    torch.testing.assert_close(found, torch.tensor([[1.25, -1.25, 1.25, -1.25, 1, 0, 1.25, -1.25]]), rtol=0, atol=5e-3)
    stored = codec.encode(torch.full((1, 8), -1e9), no_seeds(1))["features"]
    assert stored.dtype == np.int8
    assert stored.tolist() == [-127] * 8


def test_a_channel_that_was_silent_on_the_probe_still_has_a_scale():
    codec = FeatureCodec.learn(LAYERS, torch.zeros(4, 8))
    assert features_of(codec, torch.full((1, 8), 3.2)).tolist() == [[3.0] * 8]


@pytest.mark.parametrize("codec", [FeatureCodec(LAYERS), FeatureCodec.learn(LAYERS, torch.ones(2, 8))])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_features_that_are_not_finite_are_refused(codec, value):
    outputs = torch.ones(3, 8)
    outputs[1, 4] = value
    with pytest.raises(LabelError, match="finite"):
        codec.encode(outputs, no_seeds(3))
    with pytest.raises(LabelError, match="finite"):
        FeatureCodec.learn(LAYERS, outputs)


def test_features_too_large_for_float16_are_refused_with_the_remedy():
    with pytest.raises(LabelError, match="int8"):
        FeatureCodec(LAYERS).encode(torch.full((1, 8), 1e5), no_seeds(1))
    with pytest.raises(LabelError, match=r"\[N, 8\]"):
        FeatureCodec(LAYERS).encode(torch.zeros(1, 7), no_seeds(1))


def test_scales_travel_in_the_state():
    codec = FeatureCodec.learn(LAYERS, logits_of(9, 8))
    other = FeatureCodec.learn(LAYERS, logits_of(9, 8, seed=1))
    again = codec_from_spec(codec.spec(), codec.state())
    assert isinstance(again, FeatureCodec)
    assert again == codec
    assert codec != other
    assert codec != FeatureCodec(LAYERS)
    outputs = logits_of(5, 8, seed=2)
    assert torch.equal(features_of(again, outputs), features_of(codec, outputs))
    for spec, state in (
        (codec.spec(), other.state()),
        (codec.spec(), None),
        (FeatureCodec(LAYERS).spec(), codec.state()),
        ({**codec.spec(), "layers": [["a", 9]]}, codec.state()),
        (codec.spec(), b"no tensors"),
        (codec.spec(), b""),
    ):
        with pytest.raises(StoreError):
            codec_from_spec(spec, state)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_scales_that_are_no_scales_are_refused(bad):
    scales = np.ones(8, np.float32)
    scales[3] = bad
    altered = FeatureCodec(LAYERS, scales)
    with pytest.raises(StoreError, match="positive feature scales"):
        codec_from_spec(altered.spec(), altered.state())
