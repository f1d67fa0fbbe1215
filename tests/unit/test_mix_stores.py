"""A mix written as a store: the same labels as the mix that is read, within what its codec keeps."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jobs.store import app
from kdcore.config.mix import MixConfig
from kdcore.errors import IdentityMismatch, LabelError, StoreError
from kdcore.identity import digest_samples
from kdcore.labels import DenseCodec, DenseLabels, SparseLabels, TopKCodec, TopKLabels
from kdcore.store import LabelStore, mix_stores, open_store, verify_store
from kdcore.store.mix.mix import LabelMix
from kdcore.store.mix.opening import mix_settings
from tests.support.labels import codec_of
from tests.support.mixes import CLASSES, logits_of, write_store

WEIGHTS = [0.25, 0.75]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder, drawn = tmp_path_factory.mktemp("mixes"), codec_of("threshold", 9, CLASSES)
    codecs = {"dense0": DenseCodec(CLASSES), "dense1": DenseCodec(CLASSES), "topk1": TopKCodec(4, CLASSES)}
    codecs |= {"topk2": TopKCodec(6, CLASSES), "drawn0": drawn, "drawn1": drawn}
    for name, codec in codecs.items():
        write_store(folder / name, int(name[-1]), codec)
    write_store(folder / "part2", 2, DenseCodec(CLASSES), range(2, 6))
    for teacher in (0, 1):
        write_store(folder / f"image{teacher}", teacher, DenseCodec(CLASSES), kind="image")
    return folder


def written(root: Path, out: Path, *names: str, **settings: Any) -> tuple[LabelStore, LabelMix]:
    """The store of a mix, and the mix; what is not a label must be equal."""
    config = mix_settings([root / name for name in names], settings.pop("rule", "arithmetic"), **settings)
    assert not mix_stores(out, config).was_there
    assert mix_stores(out, config).was_there
    assert verify_store(out).problems == []
    store, mix = open_store(out), LabelMix.of(config)
    assert [store.key(row) for row in range(store.num_rows)] == [mix.key(row) for row in range(mix.num_rows)]
    assert [store.name(row) for row in range(store.num_rows)] == [mix.name(row) for row in range(mix.num_rows)]
    assert store.occurrences().tolist() == mix.occurrences().tolist()
    assert store.targets().tolist() == mix.targets().tolist()
    assert store.identity["tokenizer"] == "t"
    pairs = zip(store.keys().tolist(), store.occurrences().tolist(), strict=True)
    assert store.identity["input"] == digest_samples(sorted(pairs))
    assert store.identity["teacher"]["teachers"] == [each.identity["teacher"] for each in mix.stores]
    return store, mix


@pytest.mark.parametrize("rule", ["arithmetic", "geometric", "min_ce", "max_confidence", "agreement"])
def test_dense_mixes_are_kept_whole(root, tmp_path, rule):
    store, mix = written(root, tmp_path / "out", "dense0", "dense1", rule=rule)
    for row in range(store.num_rows):
        found, wanted = store.labels(row), mix.labels(row)
        assert isinstance(found, DenseLabels)
        assert isinstance(wanted, DenseLabels)
        torch.testing.assert_close(found.log_probs, wanted.log_probs, rtol=2e-3, atol=2e-3)
        assert store.tokens(row).tolist() == mix.tokens(row).tolist()
        targets = torch.from_numpy(mix.tokens(row)[1:])[:, None]
        exact = wanted.log_probs.gather(1, targets).squeeze(1)
        np.testing.assert_allclose(store.token_log_probs(row), exact.numpy(), rtol=4e-3, atol=4e-3)


def test_topk_mixes_keep_the_largest_classes(root, tmp_path):
    store, mix = written(root, tmp_path / "out", "topk1", "topk2", weights=WEIGHTS)
    assert store.codec.spec() == {"type": "topk", "k": 6, "num_classes": CLASSES}
    for row in range(store.num_rows):
        found, wanted = store.labels(row), mix.labels(row)
        assert isinstance(found, TopKLabels)
        assert isinstance(wanted, TopKLabels)
        log_probs, order = wanted.log_probs.topk(6, dim=1)
        assert torch.equal(found.ids, wanted.ids.gather(1, order))
        torch.testing.assert_close(found.log_probs, log_probs, rtol=2e-3, atol=2e-3)


def test_a_label_with_fewer_named_classes_names_others_with_an_even_share_of_the_tail(root, tmp_path):
    store, mix = written(root, tmp_path / "out", "topk2", "topk1", rule="routed", names=[["text/*"], ["code/*"]])
    row = next(row for row in range(store.num_rows) if mix.name(row).startswith("code"))
    found, wanted = store.labels(row), mix.labels(row)
    assert isinstance(found, TopKLabels)
    assert isinstance(wanted, TopKLabels)
    for place in range(found.num_labels):
        named = wanted.ids[place][wanted.ids[place] >= 0].tolist()
        assert len(named) == 4
        others = [number for number, each in enumerate(found.ids[place].tolist()) if each not in named]
        assert len(others) == 2
        share = float(wanted.tail_log_prob[place].exp()) / (CLASSES - 4)
        assert found.log_probs[place, others].exp().tolist() == pytest.approx([share, share], rel=0.02)


def test_mixes_of_draws_are_drawn_again_from_what_they_say(root, tmp_path):
    store, mix = written(root, tmp_path / "out", "drawn0", "drawn1", weights=WEIGHTS)
    assert store.codec.name == "threshold"
    assert store.codec.spec()["draws"] == 9
    differs = 0
    for row in range(store.num_rows):
        found, wanted = store.labels(row), mix.labels(row)
        assert isinstance(found, SparseLabels)
        assert isinstance(wanted, SparseLabels)
        torch.testing.assert_close(
            torch.zeros(found.num_labels).index_add_(0, found.label_of_entry(), found.weights),
            torch.ones(found.num_labels),
        )
        here, there = (dict(zip(_places(each), each.weights.tolist(), strict=True)) for each in (found, wanted))
        assert set(here) <= set(there)
        assert all(abs(weight - there[place]) < 1 / 9 + 1e-5 for place, weight in here.items())
        differs += here != there
    assert differs


def test_what_is_drawn_again_says_the_same_in_the_mean(tmp_path, monkeypatch):
    """Draws of the sources and of the mix are independent: labels that share their random numbers are biased."""
    count, drawn = 4000, codec_of("threshold", 5, CLASSES)
    monkeypatch.setattr("tests.support.mixes.tokens_of", lambda number: np.arange(count + 1) % CLASSES)
    monkeypatch.setattr(
        "tests.support.mixes.logits_of",
        lambda teacher, number, *_: logits_of(teacher, 0, CLASSES, "image").expand(count, CLASSES),
    )
    folders = [tmp_path / str(teacher) for teacher in (0, 1)]
    for teacher, folder in enumerate(folders):
        write_store(folder, teacher, drawn, range(2))
    mix_stores(tmp_path / "out", mix_settings(folders, "arithmetic", WEIGHTS))
    store, total = open_store(tmp_path / "out"), torch.zeros(CLASSES, dtype=torch.float64)
    for row in range(store.num_rows):
        labels = store.labels(row)
        assert isinstance(labels, SparseLabels)
        total.index_add_(0, labels.ids, labels.weights.double())
    teachers = [logits_of(teacher, 0, CLASSES, "image").double().softmax(1)[0] for teacher in (0, 1)]
    wanted = WEIGHTS[0] * teachers[0] + WEIGHTS[1] * teachers[1]
    assert float((total / (2 * count) - wanted).abs().max()) < 0.01


def _places(labels: SparseLabels) -> list[int]:
    return (labels.label_of_entry() * CLASSES + labels.ids).tolist()


def test_images_and_stores_of_other_samples_are_written_too(root, tmp_path):
    store, mix = written(root, tmp_path / "images", "image0", "image1")
    assert store.kind == mix.kind == "image"
    store, _ = written(root, tmp_path / "rest", "dense0", "part2", missing="rest")
    assert store.num_rows == 6


def test_what_cannot_be_one_store_is_refused(root, tmp_path, monkeypatch):
    with pytest.raises(StoreError, match="every epoch"):
        mix_stores(tmp_path / "a", mix_settings([root / "dense0", root / "dense1"], "random"))
    with pytest.raises(StoreError, match="label of each teacher"):
        mix_stores(tmp_path / "a", mix_settings([root / "dense0", root / "dense1"], "apart"))
    stores = [{"path": str(root / f"image{teacher}")} for teacher in (0, 1)]
    noisy = MixConfig.model_validate({"stores": stores, "rule": "votes", "votes": {"scale": 1}, "seed": 3})
    monkeypatch.setattr("kdcore.store.mix.mix.epsilon", lambda config, asked: 1.0)  # its package may not be here
    with pytest.raises(StoreError, match="noise of a secret"):
        mix_stores(tmp_path / "a", noisy)
    for settings in ({}, {"rule": "routed", "names": [["text/*"], ["code/*"]]}):
        asked = mix_settings([root / "drawn0", root / "topk1"], **{"rule": "arithmetic", **settings})
        with pytest.raises(StoreError, match="draws beside topk"):
            mix_stores(tmp_path / "a", asked)
    with pytest.raises(LabelError, match="geometric mean of topk"):
        mix_stores(tmp_path / "b", mix_settings([root / "topk1", root / "topk2"], "geometric"))


def test_another_mix_is_not_taken_for_this_one(root, tmp_path):
    stores = [root / "dense0", root / "dense1"]
    mix_stores(tmp_path / "out", mix_settings(stores, "arithmetic", WEIGHTS))
    with pytest.raises(StoreError, match="another teacher"):
        mix_stores(tmp_path / "out", mix_settings(stores, "arithmetic"))


def test_a_killed_mix_is_not_continued_from_other_labels(root, tmp_path, monkeypatch):
    """The second source keeps its path, teacher and samples, and has other labels."""
    monkeypatch.setattr("kdcore.store.derive.mix._UNIT_LABELS", 8)
    stores, out = [root / "topk2", tmp_path / "again"], tmp_path / "out"
    write_store(stores[1], 1, TopKCodec(4, CLASSES))
    with monkeypatch.context() as patched:
        patched.setattr("kdcore.store.derive.derive.publish_manifest", _killed)
        with pytest.raises(KeyboardInterrupt):
            mix_stores(out, mix_settings(stores, "arithmetic"))
    next((out / "journal").glob("unit-000001*")).unlink()
    shutil.rmtree(stores[1])
    write_store(stores[1], 1, TopKCodec(2, CLASSES))
    with pytest.raises(IdentityMismatch, match=r"teacher\.labels"):
        mix_stores(out, mix_settings(stores, "arithmetic"))


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_the_command_writes_it(root, tmp_path):
    stores = [str(root / name) for name in ("dense0", "topk1")]
    done = CliRunner().invoke(app, ["mix", str(tmp_path / "out"), *stores, "--weights", "0.3,0.7"])
    assert done.exit_code == 0, done.output
    made = open_store(tmp_path / "out").manifest.extra["derived"]
    assert made["weights"] == [0.3, 0.7]
    assert [source["rows"] for source in made["sources"]] == [4, 4]
    for arguments, said in ((["--weights", "0.3,x"], "weights are numbers"), (["--rule", "mean"], "rule")):
        done = CliRunner().invoke(app, ["mix", str(tmp_path / "other"), *stores, *arguments])
        assert done.exit_code == 2
        assert said in done.output
