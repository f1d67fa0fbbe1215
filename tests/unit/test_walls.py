"""The walls of the house: who may import whom, and what `import kdcore` must not need."""

import subprocess
import sys
from pathlib import Path

import pytest

# Blocks packages as if they were not installed; the code after it runs in a fresh interpreter.
BLOCK = """
import sys

class Blocked:
    names = {names!r}
    asked = []

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            self.asked.append(name)
            raise ModuleNotFoundError(f"blocked by the test: {{name}}", name=name)
        return None

sys.meta_path.insert(0, Blocked())
"""

OPTIONAL = (
    *("ray", "transformers", "tokenizers", "datasets", "accelerate", "deepspeed", "peft", "timm", "torchvision"),
    *("sklearn", "matplotlib", "tensorboard", "torchmetrics", "trl", "torchdistill", "PIL"),
)


def run_without(names: tuple[str, ...], code: str, repo: Path) -> subprocess.CompletedProcess[str]:
    program = BLOCK.format(names=set(names)) + code
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=repo, timeout=120, check=False
    )


def test_import_walls_hold(repo: Path) -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repo, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout, done.stdout


def test_kdcore_imports_without_its_extras(repo: Path) -> None:
    code = "import kdcore; assert kdcore.__version__; print('imported')"
    done = run_without(OPTIONAL, code, repo)
    assert done.stdout.strip() == "imported", done.stderr


def test_every_room_and_public_name_imports_without_extras(repo: Path) -> None:
    """And `kdcore.planning` does not even ask for a package that reads samples."""
    code = """
import importlib, pkgutil, kdcore, numpy, pyarrow.dataset, torch
Blocked.asked.clear()
import kdcore.planning
print("planning asked for", Blocked.asked)
for module in pkgutil.walk_packages(kdcore.__path__, "kdcore."):
    importlib.import_module(module.name)
missing = [name for name in kdcore.__all__ if getattr(kdcore, name, None) is None]
print("imported, without", missing)
"""
    done = run_without(OPTIONAL, code, repo)
    assert done.stdout.splitlines() == ["planning asked for []", "imported, without []"], done.stderr


@pytest.mark.parametrize("module", ["kdcore", "kdcore.config", "kdcore.errors", "jobs.main"])
def test_imports_without_torch_and_ray(module: str, repo: Path) -> None:
    done = run_without((*OPTIONAL, "torch", "pyarrow"), f"import {module}; print('imported')", repo)
    assert done.stdout.strip() == "imported", done.stderr


def test_blocking_is_real(repo: Path) -> None:
    done = run_without(("torch",), "import torch", repo)
    assert done.returncode != 0
    assert "blocked by the test" in done.stderr
