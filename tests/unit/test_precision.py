"""bfloat16 where a device emulates it: told from what torch says of the device, and said with the setting to change."""

import platform
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import kdcore.precision
from jobs.doctor import _bfloat16
from jobs.dryrun import show_synthesis
from kdcore.config import Recipe
from kdcore.precision import PRECISIONS, bfloat16_note, bfloat16_settings, computes_bfloat16, describe_device
from kdcore.training.arms import plan_arms, teacher_arm
from kdcore.training.progress import Progress
from kdcore.training.ranks import Ranks
from kdcore.training.run import _say_slow

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)
TERMS = [{"type": "attention_transfer", "at": ["stages.0"]}]


def recipe(folder: Path, narrow: set[str], losses: Any = ()) -> Recipe:
    def of(name: str) -> str:
        return "bfloat16" if name in narrow else "float32"

    network = {"type": "image_classifier", "source": "convnet"}
    tree = {
        "name": "narrow",
        "runs": str(folder),
        "data": {"type": "digits"},
        "teacher": {
            **network,
            "dtype": of("teacher.dtype"),
            "fit": {"steps": 1, "precision": of("teacher.fit.precision")},
        },
        "student": network,
        "training": {"steps": 1, "precision": of("training.precision"), "losses": losses},
    }
    if not losses:
        tree["synthesis"] = {"type": "dafl", "samples": 8, "precision": of("synthesis.precision")}
    return Recipe.model_validate(tree)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kdcore.precision, "computes_bfloat16", lambda device: False)


@pytest.mark.parametrize(
    ("found", "native"),
    [
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_tile": True}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"architecture": "arm64", "neon": True}, False),
        ({"architecture": "arm64", "bf16": True}, True),
    ],
)
def test_a_cpu_is_told_by_its_instructions(found: Any, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert computes_bfloat16(CPU) is native
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)  # nothing that uses them
    assert not computes_bfloat16(CPU)


@pytest.mark.parametrize(
    ("machine", "told", "native"),
    [
        ("x86_64", {"_is_avx512_bf16_supported": False, "_is_amx_tile_supported": False}, False),
        ("x86_64", {"_is_avx512_bf16_supported": False, "_is_amx_tile_supported": True}, True),
        ("x86_64", {"_is_avx512_bf16_supported": False}, False),
        ("x86_64", {}, True),
        ("aarch64", {"_is_mkldnn_bf16_supported": False, "_is_avx512_bf16_supported": False}, False),
        ("aarch64", {"_is_mkldnn_bf16_supported": True, "_is_avx512_bf16_supported": False}, True),
        ("arm64", {"_is_avx512_bf16_supported": False}, True),
    ],
)
def test_an_older_torch_is_asked_by_the_names_it_has(
    machine: str, told: dict[str, bool], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = SimpleNamespace(**{name: lambda answer=answer: answer for name, answer in told.items()})
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch, "cpu", asked)
    monkeypatch.setattr(torch.ops, "mkldnn", asked)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    assert computes_bfloat16(CPU) is native


def test_a_gpu_is_asked_without_what_it_emulates(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(looked_at.append(device)))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "T4")
    assert not computes_bfloat16(GPU)
    assert looked_at == [GPU]
    assert describe_device(GPU).startswith("this GPU (T4, compute capability 7.5")


def test_this_cpu_can_be_asked_and_described() -> None:
    assert isinstance(computes_bfloat16(CPU), bool)
    assert "this CPU" in describe_device(CPU)


def test_the_note_names_what_to_change_and_is_for_slow_devices_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in PRECISIONS:
        assert bfloat16_settings(recipe(tmp_path, {name})) == [name]
    assert bfloat16_settings(Recipe.model_validate({"name": "x", "data": {"type": "digits"}})) == []
    asked = recipe(tmp_path, {"teacher.dtype", "training.precision"})
    monkeypatch.setattr(kdcore.precision, "computes_bfloat16", lambda device: False)
    note = bfloat16_note(asked, PRECISIONS, CPU)
    assert "Set teacher.dtype=float32 training.precision=float32, " in note
    assert "this CPU" in note
    assert "teacher.dtype" not in bfloat16_note(asked, ("training.precision",), CPU)
    assert bfloat16_note(asked, ("synthesis.precision",), CPU) == ""
    monkeypatch.setattr(kdcore.precision, "computes_bfloat16", lambda device: True)
    assert bfloat16_note(asked, PRECISIONS, CPU) == ""


def said(asked: Recipe, arms: Any, rank: int = 0) -> list[Progress]:
    found: list[Progress] = []
    _say_slow(asked, arms, Ranks(rank, 2, CPU), found.append)
    return found


@pytest.mark.usefixtures("slow")
def test_training_says_it_once_on_rank_0_of_arms_that_are_not_finished(tmp_path: Path) -> None:
    asked = recipe(tmp_path, set(PRECISIONS))
    arms = plan_arms(asked)
    assert len(arms) > 1
    (told,) = said(asked, arms)
    assert told.arm == arms[0].name
    assert "Set training.precision=float32, " in told.note  # the teacher labelled before
    assert said(asked, arms, rank=1) == []
    assert said(recipe(tmp_path, set(PRECISIONS) - {"training.precision"}), arms) == []
    (told,) = said(asked, [teacher_arm(asked)])
    assert "Set teacher.fit.precision=float32, " in told.note
    for arm in arms:
        arm.directory(asked).mkdir(parents=True)
        (arm.directory(asked) / "result.json").write_text("{}")
    assert said(asked, arms) == []


@pytest.mark.usefixtures("slow")
def test_a_teacher_beside_the_student_counts(tmp_path: Path) -> None:
    asked = recipe(tmp_path, {"teacher.dtype"}, TERMS)
    student, baseline = plan_arms(asked)[:2]
    (told,) = said(asked, [student])
    assert "Set teacher.dtype=float32, " in told.note
    assert said(asked, [baseline]) == []


@pytest.mark.usefixtures("slow")
def test_a_dry_run_and_the_doctor_say_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = recipe(tmp_path, {"synthesis.precision"})
    show_synthesis(asked)
    assert "Set synthesis.precision=float32, " in capsys.readouterr().out
    show_synthesis(recipe(tmp_path, set()))
    assert "bfloat16" not in capsys.readouterr().out


def test_the_doctor_finds_fault_with_a_recipe_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe(tmp_path, {"synthesis.precision"})
    for native, words in ((False, "slow: "), (True, "natively")):
        monkeypatch.setattr(kdcore.precision, "computes_bfloat16", lambda device, native=native: native)
        assert words in _bfloat16(None)[1]
        assert _bfloat16(None)[2] == _bfloat16(recipe(tmp_path, set()))[2] == ""
        assert ("synthesis.precision=float32" in _bfloat16(asked)[2]) is not native
