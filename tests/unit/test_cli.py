"""`kd`: help and typos are answered at once, without torch; failures are one message and an exit code."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.common import command
from jobs.main import main

COMMANDS = ("doctor", "precompute", "train", "evaluate", "distill", "store")
HEAVY = ("torch", "ray", "transformers", "deepspeed", "datasets", "pyarrow", "numpy")

# Runs `kd` with each of some arguments, one after another: the first starts Python too, and none may import more than
# the one before. Each answer ends with the heavy packages there are, the exit code, and the CPU seconds since the last.
PROGRAM = f"""
import json, sys, time
from jobs.main import main
sys.stderr, before = sys.stdout, 0.0
for arguments in json.loads(sys.argv[1]):
    sys.argv, code = ["kd", *arguments], 0
    try:
        main()
    except SystemExit as exit:
        code = exit.code
    print("IMPORTED", [name for name in {HEAVY!r} if name in sys.modules])
    print("CODE", code)
    print("SECONDS", time.process_time() - before, flush=True)
    before = time.process_time()
"""


def kd(repo: Path, *each: tuple[str, ...]) -> list[tuple[str, float]]:
    """What `kd arguments` says, and the CPU seconds it took, of each arguments."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(each)], capture_output=True, text=True, cwd=repo, timeout=60
    )
    found = re.findall(r"(.*?)SECONDS (\S+)\n", done.stdout, re.DOTALL)
    assert len(found) == len(each), done.stdout + done.stderr
    return [(output, float(seconds)) for output, seconds in found]


def test_help_is_cheap_and_names_every_command(repo: Path) -> None:
    answers = kd(repo, ("--help",), *((name, "--help") for name in COMMANDS))
    for output, seconds in answers:
        assert "Usage" in output
        assert "IMPORTED []" in output
        assert "CODE 0" in output
        assert seconds < 1.0
    assert [name for name in COMMANDS if name not in answers[0][0]] == []
    assert [name for name, answer in zip(COMMANDS, answers[1:], strict=True) if f"kd {name}" not in answer[0]] == []


def test_a_typo_is_answered_at_once(repo: Path) -> None:
    jobs = ("distill", "precompute", "train", "evaluate")
    for output, seconds in kd(repo, *((job, "configs/quickstart-text.yaml", "training.stepz=4") for job in jobs)):
        assert "unknown key 'training.stepz'" in output
        assert "nearest valid key: 'training.steps'" in output
        assert "Traceback" not in output
        assert "IMPORTED []" in output
        assert "CODE 2" in output
        assert seconds < 1.0


def in_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], repo: Path, *arguments: str
) -> str:
    """What `kd arguments` says before it fails, without another import of torch."""
    monkeypatch.chdir(repo)
    monkeypatch.setattr(sys, "argv", ["kd", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    said = capsys.readouterr()
    return said.out + said.err


def test_a_job_without_its_group_says_so(
    tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"{{name: x, runs: {tmp_path}, data: {{type: python_stdlib}}}}")
    output = in_this_process(monkeypatch, capsys, repo, "precompute", str(recipe))
    assert "lacks 'teacher'" in output
    assert not (tmp_path / "x").exists()


def test_training_without_labels_names_the_command(
    tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = in_this_process(monkeypatch, capsys, repo, "train", "configs/quickstart-text.yaml", f"runs={tmp_path}")
    assert "IncompleteStore" in output
    assert f"run `kd precompute configs/quickstart-text.yaml runs={tmp_path}` first" in " ".join(output.split())


def test_training_beside_a_teacher_that_is_not_trained_yet_says_so_first(tmp_path: Path, repo: Path) -> None:
    ((output, _),) = kd(repo, ("train", "configs/losses-image.yaml", f"runs={tmp_path}"))
    assert "TeacherError" in output
    assert "run `kd distill`, which trains it first" in " ".join(output.split())
    assert not list(tmp_path.iterdir())


def test_a_finished_run_does_nothing(tmp_path: Path, repo: Path) -> None:
    from kdcore.config.load import load_recipe
    from kdcore.runs import begin_run, write_json

    run_dir = begin_run(load_recipe(repo / "configs/quickstart-text.yaml", [f"runs={tmp_path}"]))
    write_json(run_dir / "report.json", {"verdict": "All is said."})
    before = sorted(run_dir.rglob("*"))
    command = ("distill", "configs/quickstart-text.yaml", f"runs={tmp_path}")
    (output, _), (changed, _) = kd(repo, command, (*command, "labels.codec.budget_bytes=9"))
    assert "finished before" in output
    assert "All is said." in output
    assert "IMPORTED []" in output
    assert sorted(run_dir.rglob("*")) == before
    assert "RunMismatch" in changed
    assert "labels.codec.budget_bytes: 12.0 in the run, 9.0 now" in changed


@pytest.mark.parametrize(("error", "code"), [("ConfigError", 2), ("UnitFailed", 3)])
def test_exit_codes(error: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    import kdcore.errors

    def fail() -> None:
        raise getattr(kdcore.errors, error)("what [went] wrong")

    with pytest.raises(typer.Exit) as caught:
        command(fail)()
    assert caught.value.exit_code == code
    assert f"{error}: what [went] wrong" in capsys.readouterr().err


def test_other_errors_are_not_swallowed() -> None:
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command(fail)()
