"""Prompts and conversations through the labelling path: what is to be learnt is labelled, and as in a whole text."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdcore.config.recipe import Recipe
from kdcore.errors import ConfigError, IdentityMismatch, KDError, StoreError
from kdcore.labels.soft_labels import FeatureLabels, SoftLabels, SparseLabels, TopKLabels
from kdcore.store import (
    ExportSettings,
    LabelStore,
    compact_store,
    export_store,
    merge_stores,
    open_store,
    read_receipts,
    verify_store,
)
from kdcore.teachers.causal_lm import CausalLMTeacher
from tests.support.chat_runs import data, write_chat_teacher, write_rows
from tests.support.chat_tokenizer import BEGUN, FORGETFUL
from tests.support.labelling_runs import label
from tests.support.store_tools import kd, rows_of
from tests.support.tiny_teacher import recipe

pytest.importorskip("transformers")

THRESHOLD = {"type": "threshold", "draws": 12}
CODECS = {
    "threshold": THRESHOLD,
    "topk": {"type": "topk", "k": 3},
    "feature": {"type": "feature", "layers": ["model.layers.0"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masks")
    write_rows(path)
    write_chat_teacher(path / "teacher")
    return path


def labelled(folder: Path, name: str, rows: str = "chat", codec: dict[str, Any] | None = None, **settings: Any) -> str:
    """A store; every window is a forward pass of its own, so that no other one changes a bit of it."""
    teacher = {**recipe(folder, name)["teacher"], "context": 32, "overlap": 8, "batch_tokens": 1}
    labels = {"unit_bytes": 600, "codec": codec or THRESHOLD}
    return label(folder, name, teacher=teacher, labels=labels, data=data(folder, rows, **settings))


@pytest.fixture(scope="module")
def masked(folder: Path) -> str:
    return labelled(folder, "assistant")


def each_label(labels: SoftLabels) -> list[Any]:
    """What each label says, comparable."""
    if isinstance(labels, SparseLabels):
        ends = labels.offsets.tolist()
        pairs = list(zip(labels.ids.tolist(), labels.weights.tolist(), strict=True))
        return [sorted(pairs[start:stop]) for start, stop in itertools.pairwise(ends)]
    if isinstance(labels, TopKLabels):
        return [*zip(labels.ids.tolist(), labels.log_probs.tolist(), labels.tail_log_prob.tolist(), strict=True)]
    assert isinstance(labels, FeatureLabels)
    return labels.features.tolist()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rows", ["chat", "qa"])
def test_labels_with_a_mask_are_those_of_the_whole_text_at_the_same_positions(folder, rows, codec):
    some = open_store(labelled(folder, f"some-{rows}-{codec}", rows, CODECS[codec]))
    whole = open_store(labelled(folder, f"whole-{rows}-{codec}", rows, CODECS[codec], mask="all"))
    assert sorted(map(bytes, some.keys())) == sorted(map(bytes, whole.keys()))
    assert some.masked
    assert not whole.masked
    assert 0 < some.num_labels < whole.num_labels
    for row in range(some.num_rows):
        other = whole.row_of(some.key(row))
        positions = some.label_positions(row)
        assert some.tokens(row).tolist() == whole.tokens(other).tolist()
        assert len(positions) == some.num_labels_per_row()[row]
        assert each_label(some.labels(row)) == [each_label(whole.labels(other))[place] for place in positions]
        assert some.token_log_probs(row).tolist() == whole.token_log_probs(other)[positions].tolist()


def test_rows_without_a_token_to_learn_are_rows_without_labels(folder, masked):
    for path, mask in ((masked, "assistant"), (labelled(folder, "qa", "qa"), "completion")):
        store = open_store(path)
        assert store.identity["mask"] == mask
        empty = np.flatnonzero(store.num_labels_per_row() == 0)
        assert len(empty) == 1
        assert len(store.tokens(int(empty[0]))) > 5
        assert verify_store(path).ok
        assert store.occurrences().tolist().count(2) == 1


def test_what_the_student_is_to_say_ends_with_the_end_of_the_turn(masked):
    store, tokenizer = open_store(masked), _tokenizer(masked)
    for row in range(store.num_rows):
        said = tokenizer.decode(store.tokens(row)[1:][store.label_positions(row)])
        assert said.count("<|im_end|>") == tokenizer.decode(store.tokens(row)).count("<|im_start|>assistant")
        assert said.endswith("<|im_end|>" if said else "")
        assert "<|im_start|>" not in said


def _tokenizer(path: str) -> Any:
    from kdcore.data.tokenizer import load_tokenizer

    return load_tokenizer(str(Path(path).parents[2] / "teacher"))


def test_windows_without_a_label_are_not_read(folder, monkeypatch):
    seen: list[int] = []
    whole_pass = CausalLMTeacher.window_logits

    def counted(self: CausalLMTeacher, windows: list[np.ndarray]) -> list[torch.Tensor]:
        seen.append(len(windows))
        return whole_pass(self, windows)

    monkeypatch.setattr(CausalLMTeacher, "window_logits", counted)
    (folder / "long.jsonl").write_text(json.dumps({"question": "x" * 400, "answer": "y"}))
    teacher = {**recipe(folder, "long")["teacher"], "context": 32, "overlap": 8}
    settings = {"prompt_field": "question", "completion_field": "answer"}
    where = {"type": "text", "path": str(folder / "long.jsonl"), "heldout_fraction": 0.0, **settings}
    label(folder, "long", teacher=teacher, data=where)
    assert seen == [1, 1]  # for the probe, and for the unit


def test_another_template_or_mask_is_another_store(folder, masked, tmp_path):
    (tmp_path / "begun.jinja").write_text(BEGUN)
    assert labelled(folder, "assistant") == masked  # the same again is the same store
    with pytest.raises(IdentityMismatch, match=r"mask: stored 'assistant', wanted \(absent\)"):
        labelled(folder, "assistant", mask="all")
    with pytest.raises(IdentityMismatch, match=r"chat_template: stored '[0-9a-f]{32}', wanted '[0-9a-f]{32}'"):
        labelled(folder, "assistant", chat_template=str(tmp_path / "begun.jinja"))


def test_a_template_that_cannot_place_the_assistant_ends_the_job_at_once(folder, tmp_path):
    (tmp_path / "forgetful.jinja").write_text(FORGETFUL)
    with pytest.raises(ConfigError, match=r"forgetful\.jinja does not render"):
        labelled(folder, "forgetful", chat_template=str(tmp_path / "forgetful.jinja"))


def test_a_conversation_that_the_template_refuses_is_skipped_where_the_recipe_says_so(folder, tmp_path):
    template = "{% if messages[0].content == 'who is there' %}{{ raise_exception('too short') }}{% endif %}" + BEGUN
    (tmp_path / "strict.jinja").write_text(template)
    path = labelled(folder, "strict", chat_template=str(tmp_path / "strict.jinja"), on_unreadable="skip")
    store = open_store(path)
    assert np.count_nonzero(store.num_tokens_per_row() == 0) == 1
    assert verify_store(path).ok


def test_a_corpus_with_nothing_to_learn_is_refused(folder, tmp_path):
    (tmp_path / "silent.jsonl").write_text(json.dumps({"question": "x", "answer": ""}))
    with pytest.raises(KDError, match="label"):
        labelled(folder, "silent", "qa", path=str(tmp_path / "silent.jsonl"))


def test_other_tools_keep_the_spans(folder, masked, tmp_path):
    compacted, halves = str(tmp_path / "compacted"), []
    compact_store(masked, compacted, 1 << 20)
    assert rows_with_positions(compacted) == rows_with_positions(masked)
    lines = (folder / "chat.jsonl").read_text().splitlines()
    for number in range(2):
        (folder / "half").mkdir(exist_ok=True)
        (folder / "half" / f"{number}.jsonl").write_text("\n".join(lines[number::2]))
        where = {**data(folder, "chat"), "path": str(folder / "half" / f"{number}.jsonl")}
        halves.append(label(folder, f"half-{number}", data=where, labels={"codec": {"type": "topk", "k": 3}}))
    merged = str(tmp_path / "merged")
    merge_stores(merged, halves)
    both = {**rows_with_positions(halves[0]), **rows_with_positions(halves[1])}
    found = rows_with_positions(merged)
    assert {name: row[2:] for name, row in found.items()} == {name: both[name][2:] for name in found}
    for path in (compacted, merged):
        assert verify_store(path).ok


def rows_with_positions(path: str) -> dict[str, tuple]:
    store = open_store(path)
    positions = {store.name(row): store.label_positions(row).tolist() for row in range(store.num_rows)}
    return {name: (*row, positions[name]) for name, row in rows_of(path).items()}


def test_an_export_says_which_tokens_its_labels_are_of(masked, tmp_path):
    import pyarrow.parquet as pq

    store = open_store(masked)
    export_store(store, str(tmp_path / "x.parquet"), ExportSettings(2))
    table = pq.read_table(tmp_path / "x.parquet").to_pylist()
    for row, line in enumerate(table):
        assert line["label_positions"] == store.label_positions(row).tolist()
        assert len(line["target_token_ids"]) == len(line["label_positions"])
        assert line["input_ids"] == store.tokens(row).tolist()
    with pytest.raises(StoreError, match="label_positions"):
        export_store(store, str(tmp_path / "y.parquet"), ExportSettings(2, "distillkit"))


def test_people_see_the_mask(masked, folder):
    code, shown = kd("info", masked)
    assert code == 0
    assert "labelled tokens assistant" in shown.replace("│ ", "")
    code, text = kd("sample", masked, "--row", 1, "--labels", 3, "--tokenizer", folder / "teacher", "--json")
    assert code == 0, text
    store = open_store(masked)
    found = json.loads(text)
    wanted = store.label_positions(1)[:3].tolist()
    assert [entry["position"] for entry in found["labels"]] == wanted
    assert [entry["next"] for entry in found["labels"]] == [int(store.tokens(1)[place + 1]) for place in wanted]
    assert "| labelled tokens | assistant |" in (Path(masked) / "README.md").read_text()


def test_statistics_count_labels(masked, folder):
    whole = open_store(labelled(folder, "counted", mask="all"))
    for store in (open_store(masked), whole):
        assert _measured(store) == store.num_labels


def _measured(store: LabelStore) -> int:
    return store.manifest.extra["statistics"]["measured_labels"]


def test_a_dry_run_counts_labels_not_tokens(folder):
    from cluster.estimate.run import estimate

    found = {}
    for mask in ("assistant", "all"):
        settings = recipe(folder, f"dry-{mask}", data=data(folder, "chat", mask=mask))
        found[mask] = estimate(Recipe.model_validate(settings))
    assert 0 < found["assistant"].labels < found["all"].labels


@pytest.mark.parametrize("mask", ["completion", "all"])
def test_the_teachers_use_counts_the_tokens_that_it_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch, mask: str
) -> None:
    for name in ("pass_flops", "peak_flops"):
        monkeypatch.setattr(f"cluster.labelling.replica.replica.{name}", lambda *arguments: 1.0)
    teacher = {**recipe(folder, "x")["teacher"], "context": 128}
    path = label(folder, f"read-{mask}", teacher=teacher, data=data(folder, "qa", mask=mask))
    store = open_store(path)
    labels = store.num_labels_per_row()
    read = sum(len(store.tokens(row)) - 1 for row in range(store.num_rows) if labels[row])
    assert sum(receipt.ideal_seconds for receipt in read_receipts(path).values()) == read
    assert (read == store.num_labels) == (mask == "all")
