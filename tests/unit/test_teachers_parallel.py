"""What a split teacher refuses; what it answers is tested with real processes."""

import shutil
from pathlib import Path

import pytest

from kdcore.config.models import TeacherLMConfig
from kdcore.errors import TeacherError
from kdcore.teachers.causal_lm import CausalLMTeacher
from tests.support.tiny_teacher import write_teacher

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    write_teacher(folder)
    return folder


def split(folder: Path, ranks: int) -> CausalLMTeacher:
    config = TeacherLMConfig(path=str(folder), context=24, overlap=8, tensor_parallel=ranks)
    return CausalLMTeacher(config, device="cpu")


def test_a_split_needs_a_group_of_its_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TeacherError, match=r"tensor_parallel 2 needs .* there is none"):
        split(folder, 2)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 4)
    with pytest.raises(TeacherError, match="there is one of 4"):
        split(folder, 2)


def test_heads_must_divide(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 3)
    with pytest.raises(TeacherError, match="num_attention_heads is 2, tensor_parallel is 3"):
        split(folder, 3)


def test_an_architecture_without_a_plan(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import GPT2Config

    copy = Path(shutil.copytree(folder, tmp_path / "other"))
    GPT2Config(n_embd=16, n_layer=1, n_head=2).save_pretrained(copy)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    with pytest.raises(TeacherError, match=r"'gpt2' of .* has none"):
        split(copy, 2)
