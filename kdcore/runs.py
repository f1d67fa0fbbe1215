"""The run directory: RUN/{config.yaml, run.json, stages.json, labels, teacher, arms, report.*}."""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from kdcore.config.load import dump_recipe
from kdcore.config.recipe import Recipe
from kdcore.errors import ConfigError, KDError, RunMismatch, out_of_space
from kdcore.facts import flatten, package_versions

__all__ = ["begin_run", "is_finished", "read_stages", "stage", "write_json"]

# Where a run lives, on what it computes, how its steps are split up, saved and told of do not change what it computes;
# what is done with a bad step may be settled when one came.
_NOT_COMPARED = ("runs", "cluster")
_NOT_COMPARED_OF_TRAINING = (
    "activation_checkpointing",
    "checkpoint",
    "engine",
    "log_every_steps",
    "max_skipped_steps",
    "micro_batch_size",
    "micro_batch_tokens",
    "on_bad_step",
    "packing",
    "prefetch",
    "spike_factor",
)
_NOT_COMPARED_OF_LOSS = ("chunk_tokens", "implementation", "recompute")
_PACKAGES = ("torch", "ray", "deepspeed", "peft", "transformers", "tokenizers", "datasets", "pyarrow", "numpy", "timm")


def begin_run(recipe: Recipe, command: list[str] | None = None) -> Path:
    """Create or re-enter the run directory; returns it.

    Raises RunMismatch when it holds a run of another configuration (settings under `cluster` may differ, and those of
    `training` that split, feed, save or log the steps).
    """
    run_dir = recipe.run_dir
    config = run_dir / "config.yaml"
    if config.exists():
        _compare(config, recipe)
        return run_dir
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot create run directory '{run_dir}': {error}; choose another folder with `runs`"
        ) from error
    write_json(run_dir / "run.json", describe_run(command))
    _write(config, dump_recipe(recipe))
    return run_dir


def is_finished(run_dir: Path) -> bool:
    """Whether the run's report exists; it is written last."""
    return (run_dir / "report.json").exists()


def describe_run(command: list[str] | None = None) -> dict[str, Any]:
    """Command, versions, revision and machine of this process, as JSON."""
    return {
        "command": command or sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "revision": _revision(),
        "versions": package_versions(_PACKAGES),
        "machine": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
        },
    }


@contextlib.contextmanager
def stage(run_dir: Path, name: str) -> Iterator[None]:
    """Add the time of the `with` block to RUN/stages.json under `name`, whether it succeeds or not.

    A stage that was interrupted and continued counts all its parts. What the block raises is what the caller sees, also
    where its time cannot be written.
    """
    started = time.perf_counter()
    try:
        yield
    except BaseException:
        with contextlib.suppress(KDError):
            _note_stage(run_dir, name, time.perf_counter() - started, finished=False)
        raise
    _note_stage(run_dir, name, time.perf_counter() - started, finished=True)


def _note_stage(run_dir: Path, name: str, seconds: float, finished: bool) -> None:
    stages = read_stages(run_dir)
    before = stages.get(name, {"seconds": 0.0, "parts": 0})
    whole = round(before["seconds"] + seconds, 3)
    stages[name] = {"seconds": whole, "parts": before["parts"] + 1, "finished": finished}
    write_json(run_dir / "stages.json", stages)


def read_stages(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Seconds, parts and completion of each stage so far; empty before the first."""
    try:
        return json.loads((run_dir / "stages.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part; OutOfSpace when the disk is full."""
    _write(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise out_of_space(error, path, len(text)) from error


def _compare(config: Path, recipe: Recipe) -> None:
    stored = yaml.safe_load(config.read_text(encoding="utf-8"))
    if not isinstance(stored, dict):
        raise RunMismatch(f"'{config}' is not a recipe; move the folder away or run with another name: name=OTHER")
    before, now = (flatten(_comparable(tree)) for tree in (_with_defaults(stored), recipe.model_dump(mode="json")))
    differing = [path for path in sorted(before.keys() | now.keys()) if before.get(path) != now.get(path)]
    if not differing:
        return
    lines = [f"  {path}: {_show(before, path)} in the run, {_show(now, path)} now" for path in differing]
    raise RunMismatch(
        f"'{config.parent}' holds a run of another configuration:\n"
        + "\n".join(lines)
        + f"\ngive this one its own folder with name={recipe.name}-2, undo the change, or move the old folder away"
    )


def _with_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored recipe with settings that came later, which it did without; as it is where it is no recipe any more."""
    try:
        return Recipe.model_validate(stored).model_dump(mode="json")
    except ValidationError:
        return stored


def _comparable(tree: dict[str, Any]) -> dict[str, Any]:
    """What decides the run's results, with paths seen from the run directory: a moved checkout is the same run."""
    home = os.path.join(str(tree.get("runs", ".")), str(tree.get("name", "")))
    kept = _without(tree, _NOT_COMPARED)
    if isinstance(kept.get("training"), dict):
        kept["training"] = _of_training(kept["training"])
    teacher = kept.get("teacher")
    if isinstance(teacher, dict) and isinstance(teacher.get("fit"), dict):
        kept["teacher"] = {**teacher, "fit": _of_training(teacher["fit"])}
    return _relative(kept, home)


def _of_training(tree: dict[str, Any]) -> dict[str, Any]:
    kept = _without(tree, _NOT_COMPARED_OF_TRAINING)
    loss = kept.get("loss")
    return {**kept, "loss": _without(loss, _NOT_COMPARED_OF_LOSS)} if isinstance(loss, dict) else kept


def _without(tree: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if key not in names}


def _relative(value: Any, home: str) -> Any:
    if isinstance(value, dict):
        return {key: _relative(item, home) for key, item in value.items()}
    if isinstance(value, list):
        return [_relative(item, home) for item in value]
    absolute = isinstance(value, str) and os.path.isabs(value) and os.path.isabs(home)
    return os.path.relpath(value, home) if absolute else value


def _show(leaves: dict[str, Any], path: str) -> str:
    return repr(leaves[path]) if path in leaves else "absent"


def _revision() -> str | None:
    """The git revision of the code, with `+` after it when files were changed; none outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
