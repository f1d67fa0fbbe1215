"""`kd submit`: a job of this project on a cluster that runs already."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.common import Overrides, RecipeFile, command, say
from jobs.remote import Address, AllowOpen, connect, write

if TYPE_CHECKING:
    from cluster.remote_jobs import RemoteJobs
    from kdcore.config.recipe import Recipe

__all__ = ["submit"]

_JOBS = {
    "synthesize": ("teacher", "synthesis"),
    "precompute": ("teacher",),
    "train": ("student", "training"),
    "distill": ("teacher", "student", "training"),
    "evaluate": (),
}


@command
def submit(
    job: Annotated[str, typer.Argument(help=" | ".join(_JOBS), metavar="JOB")],
    recipe: RecipeFile,
    address: Address,
    overrides: Overrides = None,
    follow: Annotated[bool, typer.Option("--follow", help="Print its lines until it ends, and check what it made.")] = (
        False
    ),
    allow_open_cluster: AllowOpen = False,
) -> None:
    """Run a job on a cluster; submitting the same twice does no harm. Paths are those of the cluster's nodes."""
    from kdcore.config.load import dump_recipe, parse_recipe, read_tree, require
    from kdcore.errors import ConfigError

    if job not in _JOBS:
        raise ConfigError(f"kd submit takes one of {', '.join(_JOBS)}, got '{job}'")
    tree = read_tree(recipe, [*(overrides or ()), "cluster.address=auto"])
    checked = parse_recipe(tree, recipe)
    require(checked, *_JOBS[job])
    _refuse_relative(tree, checked)
    text = dump_recipe(checked)
    jobs = connect(address, allow_open_cluster)
    with tempfile.TemporaryDirectory(prefix="kd-submit-") as name:
        folder = Path(name)
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
        digest = _digest(text)
        job_id, started = jobs.submit(
            f"kd-{job}-{checked.name}-{digest}",
            f"python -m jobs.{job} recipe.yaml cluster.address=auto",
            folder,
            {"job": job, "recipe": checked.name, "digest": digest},
            lambda: _proof(job, checked) is not None,
        )
    say(f"submitted: {job_id}" if started else f"already there: {job_id} is {jobs.get(job_id).status.value}")
    if follow:
        _follow(jobs, job_id, job, checked)
    else:
        say(f"next: kd logs {job_id} --address {address} --follow")


def _refuse_relative(given: dict[str, Any], recipe: "Recipe") -> None:
    """The nodes would look for this machine's folders: a relative local path is refused, by its setting."""
    from kdcore.config.paths import path_settings
    from kdcore.config.urls import is_url
    from kdcore.errors import ConfigError

    given = {"runs": "runs", **given}
    resolved = recipe.model_dump(mode="json")
    wrong = []
    for setting in path_settings(type(recipe)):
        changed = (old for old, new in zip(setting.values(given), setting.values(resolved), strict=False) if old != new)
        wrong += [f"{setting.dotted} '{old}'" for old in changed if not is_url(old) and not Path(old).is_absolute()]
    if wrong:
        raise ConfigError(
            f"a submitted recipe names paths of the cluster's file system, absolute, got {', '.join(wrong)}: the nodes "
            "have not this machine's working folder. Put the data on storage that every node mounts and set each to "
            "its absolute path there (runs=/shared/runs), or labels.path to s3://BUCKET/PREFIX"
        )


def _digest(text: str) -> str:
    """Of the resolved settings and of the code that travels along."""
    import hashlib

    from cluster.connect import code_paths

    digest = hashlib.sha256(text.encode())
    for package in code_paths():
        for path in sorted(package.rglob("*.py")):
            digest.update(f"\0{path.relative_to(package.parent)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _follow(jobs: "RemoteJobs", job_id: str, job: str, recipe: "Recipe") -> None:
    from kdcore.errors import ClusterError

    try:
        info = jobs.follow(job_id, write)
    except KeyboardInterrupt:
        say(f"\nno longer following; the job runs on: kd stop {job_id} --address {jobs.address} ends it")
        raise typer.Exit(130) from None
    proof = _proof(job, recipe)
    if proof is not None:
        say(f"complete: {proof}")
    elif info.status.value != "SUCCEEDED":
        raise ClusterError(
            f"{job_id} ended as {info.status.value} ({info.message}), and what it was to make is not complete; its "
            "lines above say why. After the remedy, the same submission continues from what was published"
        )
    else:
        say(
            f"{job_id} ended as SUCCEEDED, which is no proof: what it made is not seen complete from here. Check where "
            f"the storage is mounted: kd store verify {recipe.store_path}"
        )


def _proof(job: str, recipe: "Recipe") -> str | None:
    """What shows from here that the job's product is complete; None when nothing does."""
    from kdcore.errors import KDError

    if job == "precompute":
        from kdcore.store import load_manifest

        try:
            return f"{recipe.store_path} has its manifest ({load_manifest(recipe.store_path).to_json()['digest']})"
        except (KDError, OSError):
            return None
    if job == "synthesize":
        return _samples(recipe)
    if job == "train":
        from kdcore.training.arms import plan_arms

        wanted = [arm.directory(recipe) / "result.json" for arm in plan_arms(recipe)]
    else:
        wanted = [recipe.run_dir / "report.json"]
    return ", ".join(map(str, wanted)) if all(path.exists() for path in wanted) else None


def _samples(recipe: "Recipe") -> str | None:
    """The note of the last generation of samples."""
    from kdcore.data.synthesised.gathering import read_generation
    from kdcore.data.synthesised.places import samples_folder
    from kdcore.errors import KDError
    from kdcore.synthesis.units import asked_of

    assert recipe.synthesis is not None
    last, folder = recipe.synthesis.generations - 1, samples_folder(recipe)
    try:
        found = read_generation(folder, last)
    except (KDError, OSError):
        return None
    if found is None or found.asked != asked_of(recipe.synthesis, last):
        return None
    return f"{folder} has generation {last}, {found.kept:,} samples"
