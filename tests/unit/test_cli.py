"""`kd`: help and typos are answered at once, without torch; failures are one message and an exit code."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.common import command

COMMANDS = ("doctor", "precompute", "train", "evaluate", "distill", "store")
HEAVY = ("torch", "ray", "transformers", "deepspeed", "datasets", "pyarrow", "numpy")

# Runs `kd` and says which heavy packages were imported, and the exit code.
PROGRAM = f"""
import sys
sys.argv[0] = "kd"
from jobs.main import main
code = 0
try:
    main()
except SystemExit as exit:
    code = exit.code
print("IMPORTED", [name for name in {HEAVY!r} if name in sys.modules])
print("CODE", code)
"""


def kd(repo: Path, *arguments: str) -> tuple[str, float]:
    """Output of `kd arguments`, and the CPU seconds it took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=repo, timeout=60, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout + done.stderr, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("arguments", [("--help",), *((name, "--help") for name in COMMANDS)])
def test_help_is_cheap(arguments: tuple[str, ...], repo: Path) -> None:
    output, seconds = kd(repo, *arguments)
    assert "Usage" in output
    assert "IMPORTED []" in output
    assert "CODE 0" in output
    assert seconds < 1.0


def test_help_names_every_command(repo: Path) -> None:
    output, _ = kd(repo, "--help")
    for name in COMMANDS:
        assert name in output


@pytest.mark.parametrize("job", ["distill", "precompute", "train", "evaluate"])
def test_a_typo_is_answered_at_once(job: str, repo: Path) -> None:
    output, seconds = kd(repo, job, "configs/quickstart-text.yaml", "training.stepz=4")
    assert "unknown key 'training.stepz'" in output
    assert "nearest valid key: 'training.steps'" in output
    assert "Traceback" not in output
    assert "IMPORTED []" in output
    assert "CODE 2" in output
    assert seconds < 1.0


def test_a_job_without_its_group_says_so(tmp_path: Path, repo: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"{{name: x, runs: {tmp_path}, data: {{type: python_stdlib}}}}")
    output, _ = kd(repo, "precompute", str(recipe))
    assert "lacks 'teacher'" in output
    assert not (tmp_path / "x").exists()


def test_training_without_labels_names_the_command(tmp_path: Path, repo: Path) -> None:
    output, _ = kd(repo, "train", "configs/quickstart-text.yaml", f"runs={tmp_path}")
    assert "IncompleteStore" in output
    assert f"run `kd precompute configs/quickstart-text.yaml runs={tmp_path}` first" in " ".join(output.split())


def test_a_finished_run_does_nothing(tmp_path: Path, repo: Path) -> None:
    from kdcore.config.load import load_recipe
    from kdcore.runs import begin_run, write_json

    run_dir = begin_run(load_recipe(repo / "configs/quickstart-text.yaml", [f"runs={tmp_path}"]))
    write_json(run_dir / "report.json", {"verdict": "All is said."})
    before = sorted(run_dir.rglob("*"))
    output, _ = kd(repo, "distill", "configs/quickstart-text.yaml", f"runs={tmp_path}")
    assert "finished before" in output
    assert "All is said." in output
    assert "IMPORTED []" in output
    assert sorted(run_dir.rglob("*")) == before
    changed, _ = kd(repo, "distill", "configs/quickstart-text.yaml", f"runs={tmp_path}", "labels.codec.budget_bytes=9")
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
