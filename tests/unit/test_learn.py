"""What a codec learns on a probe, and what the fidelity report says of it."""

import numpy as np
import pytest
import torch

from cluster.labelling.probe import ProbeResult, settle_codec
from kdcore.config.labels import DenseConfig, FeatureConfig, SampledConfig, ThresholdConfig, TopKConfig
from kdcore.errors import IdentityMismatch, LabelError
from kdcore.evaluation.fidelity import column_bytes, dense_weights, fidelity
from kdcore.labels import DenseCodec, DenseLabels, SparseLabels, TopKCodec, TopKLabels, label_seeds
from kdcore.labels.learn import ProbeBatch, learn_codec
from kdcore.store import publish_probe

CLASSES = 600


def batch_of(number: int, count: int = 256, targets: bool = True) -> ProbeBatch:
    """Zipf-like labels of very different certainty."""
    generator = torch.Generator().manual_seed(number)
    sharpness = torch.rand(count, 1, generator=generator) * 3
    prior = -torch.log(torch.arange(CLASSES) + 2.0)
    logits = prior + sharpness * torch.randn(count, CLASSES, generator=generator)
    hard = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1).numpy()
    return ProbeBatch(logits, hard if targets else None, label_seeds(number.to_bytes(16, "little"), count))


PROBE = [batch_of(number) for number in range(16)]
HELD_OUT = batch_of(99, 2000)


@pytest.mark.parametrize("budget", [4.0, 12.0, 30.0])
def test_a_budget_is_kept_on_other_rows(budget):
    codec = learn_codec(ThresholdConfig(budget_bytes=budget), CLASSES, PROBE).codec
    size = column_bytes(codec, HELD_OUT)["total"]
    assert 0.85 * budget < size < 1.05 * budget
    assert codec.bytes_per_label() == pytest.approx(size, rel=0.05)


def test_a_larger_budget_buys_more_draws():
    draws = [
        learn_codec(ThresholdConfig(budget_bytes=size), CLASSES, PROBE).codec.spec()["draws"] for size in (4, 12, 30)
    ]
    assert draws == sorted(set(draws))


def test_a_budget_below_one_draw_is_refused():
    with pytest.raises(LabelError, match=r"one draw a label takes about 1\.\d+ bytes.*budget_bytes is 0.01"):
        learn_codec(ThresholdConfig(budget_bytes=0.01), CLASSES, PROBE)


def test_tau_and_draws_say_the_same():
    tau = learn_codec(ThresholdConfig(tau=0.05), CLASSES, PROBE).codec
    assert tau.spec() == learn_codec(ThresholdConfig(draws=20), CLASSES, PROBE).codec.spec()


def test_labels_without_hard_labels_are_learnt_too():
    codec = learn_codec(SampledConfig(draws=9), CLASSES, [batch_of(1, targets=False)]).codec
    assert column_bytes(codec, batch_of(2, targets=False))["total"] > 0


def test_an_empty_probe_is_refused():
    with pytest.raises(LabelError, match="none"):
        learn_codec(ThresholdConfig(), CLASSES, [])


def test_a_probe_of_one_label_is_enough():
    assert learn_codec(ThresholdConfig(budget_bytes=12), CLASSES, [batch_of(3, 1)]).codec.num_classes == CLASSES


def test_fidelity_of_unbiased_labels():
    for config in (ThresholdConfig(draws=16), SampledConfig(draws=16)):
        codec = learn_codec(config, CLASSES, PROBE).codec
        found = fidelity(codec, HELD_OUT)
        assert found["labels"] == 2000
        assert found["bias"] < 1.2 * found["bias_by_chance"]
        assert found["batch_norm_ratio"] == pytest.approx(1, abs=0.05)
        assert found["batch_angle_degrees"] < 6
        probabilities = HELD_OUT.outputs.double().softmax(1)
        part = probabilities * 16 % 1
        exact = (part * (1 - part)).sum(1) / 256
        if config.type == "sampled":
            exact = (probabilities * (1 - probabilities)).sum(1) / 16
        assert found["variance"] == pytest.approx(float(exact.mean()), rel=0.05)
        assert found["squared_error"] == pytest.approx(float(exact.mean()), rel=0.1)


def test_fidelity_of_topk_tells_its_bias():
    found = fidelity(TopKCodec(8, CLASSES), HELD_OUT)
    kept = HELD_OUT.outputs.softmax(1).topk(8).values.sum(1).mean()
    assert found["mass_kept"] == pytest.approx(float(kept), rel=1e-4)
    assert found["variance"] == 0
    assert found["bias"] > 0.05
    assert found["bias_by_chance"] == 0
    assert found["entries"] == 8


def test_fidelity_of_dense_labels_is_rounding():
    found = fidelity(learn_codec(DenseConfig(), CLASSES, PROBE).codec, HELD_OUT)
    assert found["batch_angle_degrees"] < 0.1
    assert found["bias"] < 1e-3
    assert fidelity(DenseCodec(CLASSES, 8), HELD_OUT)["bias"] < 0.02


def test_fidelity_of_features():
    layers = (("a", (4, 10, 10)), ("b", (200,)))
    codec = learn_codec(FeatureConfig(layers=("a", "b"), dtype="int8"), 0, PROBE, layers).codec
    found = fidelity(codec, HELD_OUT)
    assert 0 < found["relative_error"] < 0.02
    assert found["bytes_per_label"]["total"] == 600
    assert 0 <= found["saturated"] < 1e-3
    tight = learn_codec(FeatureConfig(layers=("a", "b"), dtype="int8"), 0, [PROBE[0]], layers).codec
    wild = ProbeBatch(torch.cat([HELD_OUT.outputs[:50], 9 * HELD_OUT.outputs[50:51]]), None, HELD_OUT.seeds[:51])
    assert fidelity(tight, wild)["relative_error"] > found["relative_error"]


def test_weights_of_every_kind_of_label():
    dense = DenseLabels(torch.tensor([[0.5, 0.25, 0.25]]).log())
    top = TopKLabels(torch.tensor([[1]]), torch.tensor([[0.6]]).log(), torch.tensor([0.4]).log(), 3)
    sparse = SparseLabels(torch.tensor([2, 0]), torch.tensor([0.75, 0.25]), torch.tensor([0, 2]), 3)
    wanted = ([0.5, 0.25, 0.25], [0.2, 0.6, 0.2], [0.25, 0.0, 0.75])
    for labels, row in zip((dense, top, sparse), wanted, strict=True):
        np.testing.assert_allclose(dense_weights(labels)[0], row, rtol=1e-6)


def test_topk_is_cut_to_the_vocabulary():
    assert learn_codec(TopKConfig(k=5000), CLASSES, PROBE).codec.spec()["k"] == CLASSES


def test_a_store_begun_before_a_setting_was_known_goes_on(tmp_path):
    """An earlier version did not know `bits`, which were 16 then."""
    asked = {"kind": "image", "codec": {"type": "topk", "k": 4}}
    publish_probe(tmp_path, ProbeResult(asked, TopKCodec(4, 9), {}).content())

    def settle(config: TopKConfig) -> object:
        return settle_codec(str(tmp_path), {"kind": "image"}, config, lambda: pytest.fail("there is a probe"))

    assert settle(TopKConfig(k=4)) == TopKCodec(4, 9)
    with pytest.raises(IdentityMismatch, match=r"codec\.bits: stored 16, wanted 8"):
        settle(TopKConfig(k=4, bits=8))
