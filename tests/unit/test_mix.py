"""Several stores as one: rows by key, labels by rule, and stores that do not belong together."""

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

import kdcore
from kdcore.config.mix import MixConfig
from kdcore.config.views import ViewPolicy
from kdcore.errors import ConfigError, IdentityMismatch, MissingLabels
from kdcore.identity import sample_key_text
from kdcore.labels import DenseCodec, FeatureCodec, SoftLabels, SparseLabels, TopKCodec, TopKLabels
from kdcore.labels.mixing import agreement_shares, arithmetic, choose, entropy_shares, geometric, max_confidence
from kdcore.labels.views.spec import ViewSpec
from kdcore.store import LabelStore
from kdcore.store.mix.mix import LabelMix
from kdcore.store.mix.opening import open_mix
from tests.support.labels import codec_of
from tests.support.mixes import CLASSES, logits_of, name_of, tokens_of, write_store

DENSE, TOPK, WIDE = DenseCodec(CLASSES), TopKCodec(4, CLASSES), TopKCodec(6, CLASSES)
WEIGHTS = [0.2, 0.5, 0.3]


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> dict[str, LabelStore]:
    """By the codec and the number of the teacher; `part` has samples 2 to 5, the others 0 to 3."""
    root, drawn = tmp_path_factory.mktemp("mixes"), codec_of("threshold", 9, CLASSES)
    codecs = {"dense0": DENSE, "dense1": DENSE, "topk1": TOPK, "topk2": WIDE, "drawn0": drawn, "drawn1": drawn}
    found = {name: write_store(root / name, int(name[-1]), codec) for name, codec in codecs.items()}
    found["part2"] = write_store(root / "part2", 2, DENSE, range(2, 6))
    found["image0"] = write_store(root / "image0", 0, DENSE, kind="image")
    found["image1"] = write_store(root / "image1", 1, TOPK, kind="image")
    return found


def mix_of(stores: dict[str, LabelStore], *names: str, **settings: Any) -> LabelMix:
    return open_mix([stores[name].path for name in names], **settings)


def every(mix: LabelMix, epoch: int = 0) -> SoftLabels:
    rows = np.arange(mix.num_rows)
    return mix.labels_of(rows, np.zeros_like(rows), mix.num_labels_per_row(), np.full_like(rows, epoch))


def alone(store: LabelStore, numbers: range = range(4)) -> SoftLabels:
    rows = store.rows_of([sample_key_text(str(number)) for number in numbers])
    return store.labels_of(rows, [0] * len(rows), store.num_labels_per_row()[rows])


def same(found: SoftLabels, wanted: SoftLabels) -> None:
    assert type(found) is type(wanted)
    for name, value in vars(wanted).items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-5, atol=1e-6) if isinstance(
            value, torch.Tensor
        ) else None


def test_rows_are_joined_by_key_in_the_order_of_the_first_store(stores):
    mix = mix_of(stores, "part2", "dense0", missing="rest")
    assert [mix.name(row) for row in range(mix.num_rows)] == [name_of(number) for number in (2, 3, 4, 5, 0, 1)]
    assert mix.occurrences().tolist() == [1, 2, 1, 2, 1, 2]
    assert mix.num_tokens_per_row().tolist() == [7, 9, 11, 13, 3, 5]
    assert [mix.tokens(row).tolist() for row in (0, 5)] == [tokens_of(2).tolist(), tokens_of(1).tolist()]
    assert [each.tolist() for each in mix.tokens_of([0, 5, 1])] == [tokens_of(number).tolist() for number in (2, 1, 3)]
    assert mix.label_positions(4).tolist() == [0, 1]
    assert mix.rows_of([sample_key_text("1")]).tolist() == [5]
    with pytest.raises(MissingLabels, match="1 of 2 have none"):
        mix.rows_of([sample_key_text("1"), sample_key_text("9")])


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (("dense0", "dense1", "part2"), "dense"),
        (("drawn0", "drawn1", "dense1"), "weights"),
        (("dense0", "topk1", "topk2"), "topk"),
        (("drawn0", "topk1", "dense1"), "topk"),
    ],
)
def test_the_arithmetic_mix_reads_what_the_rule_makes_of_the_stores(stores, names, form):
    mix = mix_of(stores, *names, weights=WEIGHTS, missing="rest")
    assert mix.form == form
    if "part2" not in names:
        same(every(mix), arithmetic([alone(stores[name]) for name in names], torch.tensor(WEIGHTS)))


@pytest.mark.parametrize("names", [("dense0", "dense1"), ("dense0", "topk1"), ("topk1", "topk2")])
@pytest.mark.parametrize("rule", ["geometric", "entropy", "agreement", "max_confidence"])
def test_rules_that_look_at_probabilities_read_what_they_make_of_them(stores, names, rule):
    labels, weights = [alone(stores[name]) for name in names], torch.tensor([0.5, 0.5])
    wanted = {
        "geometric": lambda: geometric(labels, weights),
        "entropy": lambda: arithmetic(labels, entropy_shares(labels, weights)),
        "agreement": lambda: arithmetic(labels, agreement_shares(labels, weights)),
        "max_confidence": lambda: choose(labels, max_confidence(labels), 4),
    }[rule]()
    same(every(mix_of(stores, *names, rule=rule)), wanted)


def target_log_probs(teacher: int) -> torch.Tensor:
    parts = []
    for number in range(4):
        hard = torch.from_numpy(tokens_of(number)[1:])[:, None]
        parts.append(logits_of(teacher, number, CLASSES, "text").log_softmax(1).gather(1, hard).half().float())
    return torch.cat(parts).squeeze(1)


@pytest.mark.parametrize("names", [("drawn0", "drawn1"), ("drawn0", "topk1"), ("dense0", "dense1")])
def test_min_ce_knows_the_probability_of_a_texts_next_token_whatever_the_codec(stores, names):
    which = torch.stack([target_log_probs(int(name[-1])) for name in names]).argmax(0)
    assert 0 < which.sum() < len(which), "both are chosen somewhere"
    same(every(mix_of(stores, *names, rule="min_ce")), choose([alone(stores[name]) for name in names], which, 4))


def test_images_are_mixed_too(stores):
    labels = [alone(stores["image0"]), alone(stores["image1"])]
    same(every(mix_of(stores, "image0", "image1")), arithmetic(labels, torch.tensor([0.5, 0.5])))
    with pytest.raises(ConfigError, match="hard label"):
        mix_of(stores, "image0", "image1", rule="min_ce")


def test_min_ce_needs_one_hard_label_of_every_image(tmp_path, stores):
    bare = [write_store(tmp_path / str(number), number, DENSE, kind="image", targets=False) for number in range(2)]
    with pytest.raises(ConfigError, match=r"hard label of every sample, and 4 of 4 in .*0 have none"):
        open_mix([store.path for store in bare], rule="min_ce")


def test_min_ce_has_no_one_hard_label_of_a_picture_of_two(tmp_path, stores, monkeypatch):
    image = write_store(tmp_path / "image", 1, DENSE, kind="image")
    policy = ViewPolicy.model_validate({"per_image": 1, "mix": {"mixup": 0.2}})
    monkeypatch.setattr(LabelStore, "view_spec", ViewSpec(policy, 8, (0.5,), (0.5,)))
    with pytest.raises(ConfigError, match=r"image0 are mixed of two images"):
        open_mix([stores["image0"].path, image.path], rule="min_ce")


def test_slices_in_any_order_are_those_of_the_whole(stores):
    mix = mix_of(stores, "drawn0", "part2", "drawn1", missing="rest")
    rows, starts, stops = [5, 0, 3, 3, 1], [2, 0, 1, 0, 4], [9, 2, 5, 1, 4]
    found = mix.labels_of(rows, starts, stops)
    assert isinstance(found, SparseLabels)
    first = 0
    for row, start, stop in zip(rows, starts, stops, strict=True):
        same(found.index(slice(first, first + stop - start)), mix.labels_of([row], [start], [stop]))
        first += stop - start
    assert first == found.num_labels
    assert mix.labels_of([], [], []).num_labels == mix.labels_of([0], [0], [0]).num_labels == 0


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (("dense0", "part2", "topk1"), {"missing": "rest"}),
        (("dense0", "topk1"), {"rule": "min_ce"}),
        (("dense0", "topk1"), {"rule": "max_confidence"}),
        (("dense0", "topk1"), {"rule": "random"}),
    ],
)
def test_a_label_hangs_on_no_label_beside_it(stores, names, settings):
    """So that any split into ranks and micro-batches reads the same."""
    mix = mix_of(stores, *names, **settings)
    together, first = every(mix), 0
    assert isinstance(together, TopKLabels)
    for row, count in enumerate(mix.num_labels_per_row().tolist()):
        mine, single = together.index(slice(first, first + count)), mix.labels(row)
        assert isinstance(single, TopKLabels)
        torch.testing.assert_close(mine.tail_log_prob, single.tail_log_prob)
        assert torch.equal((mine.ids >= 0).sum(1), (single.ids >= 0).sum(1))
        first += count


def test_the_stores_that_have_a_sample_share_it(stores):
    mix = mix_of(stores, "dense0", "dense1", "part2", weights=WEIGHTS, missing="rest")
    labels = [alone(stores[name]) for name in ("dense0", "dense1")]
    without = arithmetic(labels, torch.tensor([2 / 7, 5 / 7]))
    same(mix.labels_of([0, 1], [0, 0], [2, 4]), without.index(slice(0, 6)))
    same(mix.labels_of([4, 5], [0, 0], [10, 12]), alone(stores["part2"], range(4, 6)))


def test_a_sample_without_a_label_is_refused_unless_the_rest_share_it(stores):
    with pytest.raises(MissingLabels, match=r"dense0 has no label for 2 of the 6 samples .*part2.*missing: rest"):
        mix_of(stores, "dense0", "part2")


def test_a_random_teacher_is_another_one_in_another_epoch(stores):
    mix = mix_of(stores, "dense0", "dense1", rule="random", seed=3)
    assert mix.changes
    wanted = [alone(stores["dense0"]), alone(stores["dense1"])]
    chosen = set()
    for epoch in range(6):
        found = every(mix, epoch)
        assert torch.equal(every(mix, epoch).log_probs, found.log_probs)  # pyright: ignore
        teachers, first = [], 0
        for count in mix.num_labels_per_row().tolist():
            part = slice(first, first + count)
            mine = found.index(part)
            teachers.append([torch.equal(mine.log_probs, each.index(part).log_probs) for each in wanted].index(True))  # pyright: ignore
            first += count
        chosen.add(tuple(teachers))
    assert len(chosen) > 1
    assert {teacher for teachers in chosen for teacher in teachers} == {0, 1}


def test_a_random_teacher_is_not_the_first_epochs_throughout(stores):
    with pytest.raises(ConfigError, match=r"random mix of .* knows of no epochs.*such as arithmetic"):
        kdcore.LabelledText(mix_of(stores, "dense0", "dense1", rule="random"), None)
    assert len(kdcore.LabelledText(mix_of(stores, "dense0", "dense1"), None)) == 6


def test_samples_are_routed_by_their_names(stores):
    mix = mix_of(stores, "drawn0", "topk1", rule="routed", names=[["code/*"], []])
    found = every(mix)
    assert isinstance(found, TopKLabels)
    counts = mix.num_labels_per_row()
    which = torch.from_numpy(np.repeat([0, 1, 0, 1], counts))
    same(found, choose([alone(stores["drawn0"]), alone(stores["topk1"])], which, 4))


@pytest.mark.parametrize(
    ("rule", "names", "wanted"),
    [
        ("arithmetic", None, [("dense0", 0, 1, 2), ("dense1", 0, 1, 2), ("part2", 0)]),
        ("routed", [["code/0*"], ["text/*"], []], [("dense0", 0, 1, 2), ("dense0", 0), ("dense1", 1), ("part2", 0)]),
    ],
)
def test_what_is_read_is_brought_from_a_bucket(stores, monkeypatch, rule, names, wanted):
    mix = mix_of(stores, "dense0", "dense1", "part2", rule=rule, names=names, missing="rest")
    brought = []
    monkeypatch.setattr(LabelStore, "elsewhere", True)
    monkeypatch.setattr(
        LabelStore, "bring", lambda store, rows: brought.append((Path(store.path).name, *rows.tolist()))
    )
    mix.bring([2, 0, 1, 2])
    assert brought == wanted


def test_a_route_to_a_store_without_the_sample_is_refused_or_passed_over(stores):
    names = [["code/*"], ["*"]]
    refusing = mix_of(stores, "part2", "dense0", rule="routed", names=names)
    row = int(refusing.rows_of([sample_key_text("0")])[0])
    with pytest.raises(MissingLabels, match=r"'code/0.txt' is routed to .*part2, which has no label"):
        refusing.labels_of([row], [0], [2])
    mix = mix_of(stores, "part2", "dense0", rule="routed", names=names, missing="rest")
    same(mix.labels_of([row], [0], [2]), alone(stores["dense0"], range(1)))
    with pytest.raises(MissingLabels, match="routed to no store"):
        every(mix_of(stores, "dense0", "dense1", rule="routed", names=[["code/*"], ["poems/*"]]))


def test_padded_vocabularies_of_one_tokenizer_are_cut_with_a_note(tmp_path, stores):
    padded = write_store(tmp_path / "padded", 1, TopKCodec(4, CLASSES + 14))
    mix = LabelMix.of(MixConfig.model_validate({"stores": [{"path": stores["dense0"].path}, {"path": padded.path}]}))
    assert mix.num_classes == CLASSES == every(mix).num_classes
    (note,) = mix.notes
    assert f"{CLASSES:,} in {stores['dense0'].path}, {CLASSES + 14:,} in {padded.path}" in note
    labels = every(mix)
    assert isinstance(labels, TopKLabels)
    assert labels.ids.max() < CLASSES
    total = torch.cat([labels.log_probs, labels.tail_log_prob[:, None]], 1).logsumexp(1)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-5)


def test_other_classes_are_refused_where_no_tokenizer_says_that_they_are_padding(tmp_path, stores):
    unknown = write_store(tmp_path / "unknown", 1, DenseCodec(CLASSES + 1), tokenizer=None)
    images = write_store(tmp_path / "images", 1, DenseCodec(CLASSES + 1), kind="image")
    for store, other in ((unknown, "dense0"), (images, "image0")):
        with pytest.raises(IdentityMismatch, match=f"same classes, but there are {CLASSES + 1} in .*{CLASSES} in"):
            open_mix([store.path, stores[other].path])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": "other"}, "tokenizer: 't' and 'other'"),
        ({"chat_template": "x"}, r"chat_template: \(absent\) and 'x'"),
        ({"kind": "image"}, "kind: 'text' and 'image'"),
    ],
)
def test_stores_of_other_inputs_are_refused_with_both_values(tmp_path, stores, changes, said):
    kind = changes.pop("kind", "text")
    other = write_store(tmp_path / "other", 1, DENSE, kind=kind, **changes)
    with pytest.raises(IdentityMismatch, match=said):
        open_mix([stores["dense0"].path, other.path])


def test_tokenizers_are_compared_beside_a_store_that_knows_none(tmp_path, stores):
    unknown = write_store(tmp_path / "unknown", 1, DENSE, tokenizer=None)
    other = write_store(tmp_path / "other", 2, DENSE, tokenizer="other")
    given = [unknown.path, stores["dense0"].path]
    assert open_mix(given).identity["tokenizer"] == "t"
    with pytest.raises(IdentityMismatch, match=r"dense0 and .*other differ in:\n  tokenizer: 't' and 'other'"):
        open_mix([*given, other.path])


def test_one_key_with_two_lengths_is_refused(tmp_path, stores, monkeypatch):
    monkeypatch.setattr("tests.support.mixes.tokens_of", lambda number: tokens_of(number)[:-1])
    other = write_store(tmp_path / "other", 1, DENSE)
    with pytest.raises(IdentityMismatch, match=r"has tokens 3, .*other 2 \(4 such samples\)"):
        open_mix([stores["dense0"].path, other.path])


def test_features_are_no_distribution(tmp_path, stores):
    features = write_store(tmp_path / "features", 1, FeatureCodec((("a", 3),)), kind="image")
    with pytest.raises(ConfigError, match="distributions"):
        open_mix([stores["image0"].path, features.path])


@pytest.mark.parametrize("rule", ["geometric", "entropy", "agreement", "max_confidence"])
def test_rules_that_look_at_probabilities_refuse_draws_when_the_mix_is_opened(stores, rule):
    with pytest.raises(ConfigError, match=rf"'{rule}' looks at .*drawn1 holds draws \(codec 'threshold'\)"):
        mix_of(stores, "dense0", "drawn1", rule=rule)


def test_a_mix_is_opened_again_where_it_is_copied_to(stores):
    mix = kdcore.open_mix([stores["drawn0"].path, stores["dense1"].path], weights=[0.25, 0.75])
    same(every(copy.deepcopy(mix)), every(mix))


def test_settings_of_a_loop_of_ones_own_are_checked_too():
    with pytest.raises(ConfigError, match=r"sum to 1\.1"):
        kdcore.open_mix(["a", "b"], weights=[0.5, 0.6])
    with pytest.raises(ConfigError, match="2 stores, got 3 of weight"):
        kdcore.open_mix(["a", "b"], weights=[0.5, 0.4, 0.1])


STORES = [{"path": "a"}, {"path": "b"}]


def test_a_store_is_given_once_whatever_its_path(tmp_path, stores):
    given = stores["dense0"].path
    shutil.copytree(given, tmp_path / "copy")
    (tmp_path / "link").symlink_to(given)
    for other in (given, f"{given}/", tmp_path / "link", tmp_path / "copy"):
        with pytest.raises(ConfigError, match=r"again \(one index\)"):
            open_mix([given, stores["dense1"].path, other])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"stores": [{"path": "a", "weight": 0.5}, {"path": "b", "weight": 0.4}]}, r"\[0.5, 0.4\] sum to 0.9"),
        ({"stores": [{"path": "a", "weight": 0.5}, {"path": "b"}]}, "1 of 2 have one"),
        (
            {"stores": [{"path": "a", "weight": 0.5}, {"path": "b", "weight": 0.5}], "rule": "min_ce"},
            "weighs no teacher: leave `weight` out",
        ),
        ({"stores": [{"path": "a", "names": ["x"]}, {"path": "b"}]}, "of rule routed"),
        ({"stores": STORES, "rule": "routed"}, "needs `names`"),
        ({"stores": STORES[:1]}, "at least 2"),
        ({"stores": STORES, "rule": "mean"}, "arithmetic"),
    ],
)
def test_settings_that_do_not_fit_together(settings, said):
    with pytest.raises(ValidationError, match=said):
        MixConfig.model_validate(settings)


def test_equal_shares_where_no_weight_is_given():
    assert MixConfig.model_validate({"stores": STORES}).weights == (0.5, 0.5)


def test_paths_in_words(stores):
    first, second = stores["dense0"].path, stores["dense1"].path
    assert mix_of(stores, "dense0", "dense1").described == f"the arithmetic mix of {first}, {second}"
    assert Path(first).name == "dense0"
