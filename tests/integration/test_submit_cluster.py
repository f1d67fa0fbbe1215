"""Jobs submitted to a real, closed cluster: followed to what they make, submitted twice, stopped."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.http_proxy import proxied
from tests.support.remote_cluster import TOKEN, Site, closed_cluster
from tests.support.tiny_teacher import write_documents

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]  # whole jobs, each of several processes that import torch

MANY = {"labels": {"unit_bytes": 1, "codec": {"type": "topk", "k": 4}}}
STUDENT = {
    "type": "causal_lm",
    "architecture": {
        "model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64,
    },
}  # fmt: skip
TRAINING = {
    "steps": 2,
    "batch_size": 2,
    "sequence_length": 16,
    "long_documents": "cut",
    "baseline": False,
    "seeds": [0],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with closed_cluster(tmp_path_factory.mktemp("submit")) as site:
        yield site


def test_a_job_is_followed_to_its_manifest_and_its_token_stays_home(site: Site) -> None:
    submit = ("submit", "precompute", site.recipe("far"), "--address", site.head)
    wrong = site.kd(*submit, token="another token")
    assert wrong.returncode == 2
    assert "another token" in wrong.stderr
    assert "RAY_AUTH_TOKEN" in wrong.stderr
    missing = site.kd(*submit, token=None)
    assert missing.returncode == 2
    assert "none was found here" in missing.stderr

    process = site.start(*submit, "--follow")
    shown = []
    while process.poll() is None:
        shown += [line for line in _command_lines() if TOKEN in line]
        time.sleep(0.2)
    out, err = process.communicate()
    assert shown == []
    assert process.returncode == 0, out + err
    assert "complete: " in out, out + err
    assert (site.store("far") / "manifest.json").exists()
    job_id = out.split("submitted: ")[1].split()[0]

    second = site.kd(*submit, "--follow")
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"already there: {job_id} is SUCCEEDED" in second.stdout

    status = site.kd("status", job_id, "--address", site.head)
    assert "SUCCEEDED" in status.stdout
    logs = site.kd("logs", job_id, "--address", site.head)
    assert "labels: " in logs.stdout
    unknown = site.kd("status", "kd-nothing", "--address", site.head)
    assert unknown.returncode == 2
    assert "knows no job" in unknown.stderr

    told = "".join(done.stdout + done.stderr for done in (wrong, second, status, logs, unknown)) + out + err
    assert TOKEN not in told + str(site.jobs())
    assert _holders(site.folder / "runs") == []
    logs = list((site.ray / "session_latest" / "logs").rglob("*"))
    assert any("job-driver" in path.name for path in logs)
    assert _holders(site.ray / "session_latest" / "logs") == []


def _command_lines() -> list[str]:
    """The arguments of every process of this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


def _holders(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def test_success_is_submitted_again_when_its_store_is_gone(site: Site) -> None:
    submit = ("submit", "precompute", site.recipe("far"), "--address", site.head, "--follow")
    assert site.kd(*submit).returncode == 0  # at once, where the test before has run
    shutil.rmtree(site.store("far"))
    again = site.kd(*submit)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (site.store("far") / "manifest.json").exists()
    assert sorted(job_id[-2:] == "-2" for job_id in site.jobs_of("far")) == [False, True]
    assert set(site.jobs_of("far").values()) == {"SUCCEEDED"}


def test_two_submissions_at_once_are_one_job(site: Site) -> None:
    submit = ("submit", "precompute", site.recipe("twice"), "--address", site.head)
    both = [site.start(*submit) for _ in range(2)]
    told = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert len(site.jobs_of("twice")) == 1
    assert sum("submitted: " in out for out, _ in told) == 1
    assert sum("already there: " in out for out, _ in told) == 1


def test_a_stopped_job_leaves_no_actor_and_goes_on_where_it_was(site: Site) -> None:
    write_documents(site.folder / "many", 200)
    data = {"type": "text", "path": str(site.folder / "many" / "*.txt"), "heldout_fraction": 0.0}
    submit = ("submit", "precompute", site.recipe("halt", data=data, **MANY), "--address", site.head)
    first = site.kd(*submit)
    job_id = first.stdout.split("submitted: ")[1].split()[0]
    journal = site.store("halt") / "journal"

    def in_the_middle(when: str, method: str, path: str) -> bool:
        if path.endswith("/stop"):
            site.wait_for(lambda: journal.exists() and len(list(journal.iterdir())) >= 2, "no unit was finished")
        return True

    with proxied(site.head, in_the_middle) as proxy:
        stopped = site.kd("stop", job_id, "--address", proxy)
    assert f"{job_id}: asked to stop, is STOPPED now" in stopped.stdout, stopped.stdout + stopped.stderr
    assert not (site.store("halt") / "manifest.json").exists()
    assert not [line for line in _command_lines() if "jobs.precompute" in line and "halt" in line]
    site.wait_for(lambda: not site.living(), "actors outlive their job")
    kept = {path.name: path.read_bytes() for path in journal.iterdir()}
    assert "was not running" in site.kd("stop", job_id, "--address", site.head).stdout

    again = site.kd(*submit, "--follow")
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"submitted: {job_id}-2" in again.stdout
    assert f"{len(kept)} of 199 units were there" in again.stdout
    assert all((journal / name).read_bytes() == content for name, content in kept.items())
    assert (site.store("halt") / "manifest.json").exists()


def test_students_are_trained_and_distilled_by_submitted_jobs(site: Site) -> None:
    write_documents(site.folder / "held", 2)
    data = {"type": "text", "path": f"{site.folder}/docs/*.txt", "heldout": f"{site.folder}/held/*.txt"}
    parts = {"student": STUDENT, "training": TRAINING, "data": data}
    recipe = site.recipe("learn", **parts)
    distilled = site.kd("submit", "distill", recipe, "--address", site.head, "--follow")
    assert distilled.returncode == 0, distilled.stdout + distilled.stderr
    run = site.folder / "runs" / "learn"
    assert f"complete: {run / 'report.json'}" in distilled.stdout
    assert (site.store("learn") / "manifest.json").exists()
    assert (run / "arms" / "student-seed0" / "student" / "model.safetensors").exists()

    labels = {"path": str(site.store("learn")), "unit_bytes": 600, "codec": {"type": "topk", "k": 4}}
    recipe = site.recipe("learn-more", **parts, labels=labels)
    trained = site.kd("submit", "train", recipe, "--address", site.head, "--follow")
    assert trained.returncode == 0, trained.stdout + trained.stderr
    arm = site.folder / "runs" / "learn-more" / "arms" / "student-seed0"
    assert f"complete: {arm / 'result.json'}" in trained.stdout
    assert (arm / "student" / "model.safetensors").exists()
