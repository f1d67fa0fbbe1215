"""Finishing a store opens no shard: what the driver needs of one is in its receipt."""

from pathlib import Path
from typing import Any

import pytest

from kdcore.store import load_manifest, verify_store
from kdcore.store.storage.local import LocalPlace
from tests.support.labelling_runs import label
from tests.support.tiny_teacher import write_documents, write_teacher

pytest.importorskip("transformers")


def test_a_labelling_run_opens_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_documents(tmp_path / "docs", 9)
    write_teacher(tmp_path / "teacher")
    read: list[str] = []
    for name in ("load", "mapped", "local_file", "read"):
        original = getattr(LocalPlace, name)

        def call(self: LocalPlace, file: str, *args: Any, original: Any = original, **settings: Any) -> Any:
            read.append(file)
            return original(self, file, *args, **settings)

        monkeypatch.setattr(LocalPlace, name, call)
    store = label(tmp_path, "counted", labels={"unit_bytes": 900, "codec": {"type": "threshold", "budget_bytes": 6}})
    assert "journal/unit-000001.json" in read
    assert [file for file in read if file.startswith("data/")] == []
    manifest = load_manifest(store)
    figures = manifest.extra["statistics"]
    assert figures["measured_labels"] == manifest.num_labels  # small shards are measured whole
    assert 0 <= figures["teacher_top1_agreement_with_target"] <= 1
    assert figures["teacher_mean_nll"] > 0
    read.clear()
    assert verify_store(store).ok
    assert {file for file in read if file.startswith("data/")} == {shard.shard for shard in manifest.shards}
