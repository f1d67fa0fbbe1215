"""Planning by tasks of a real cluster: workers are killed over it, and the store is that of planning in one process."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cluster.labelling import planning
from kdcore.config.data import DataConfig
from kdcore.config.recipe import Recipe
from kdcore.data.base import BaseSource
from kdcore.data.sources import Source, open_source
from kdcore.errors import ClusterError, StorageUnavailable, UnreadableDocument
from kdcore.planning import Asked, Corpus, planned_input
from kdcore.store import collect_garbage, read_receipts, verify_store
from tests.support.labelling_runs import content, label
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("planning")
    write_documents(path / "docs", 12)
    (path / "docs/again.txt").write_bytes((path / "docs/doc003.txt").read_bytes())
    write_teacher(path / "teacher")
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[DataConfig], Callable[[], Source]]], None]:
    """Blocks of three documents or so; the corpus is opened as the given function says."""
    whole = Corpus.of

    def set_up(opened: Callable[[DataConfig], Callable[[], Source]]) -> None:
        def of(config: DataConfig) -> Corpus:
            return replace(whole(config), open=opened(config), block_bytes=600)

        monkeypatch.setattr(Corpus, "of", of)

    return set_up


def dying(config: DataConfig, driver: int, once: Path) -> Source:
    """The corpus; the first worker that comes to document 7 is killed over it."""
    source = open_source(config)
    read = source.read

    def read_or_die(ref):
        if ref.name == "doc007.txt" and os.getpid() != driver and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return read(ref)

    source.read = read_or_die  # pyright: ignore[reportAttributeAccessIssue]
    return source


def test_a_plan_by_a_cluster_gives_the_store_of_a_plan_by_one_process(
    folder: Path, tmp_path: Path, small_blocks: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from cluster.connect import cluster_session
    from cluster.labelling.pool import ray_pool
    from cluster.ray_map import ray_map, run_one

    small_blocks(lambda config: partial(open_source, config))
    calm = label(folder, "in-one-process")
    # By value: the workers of the cluster know nothing of this module.
    import ray.cloudpickle as by_value

    by_value.register_pickle_by_value(__import__(__name__))
    once = tmp_path / "died"
    small_blocks(lambda config: partial(dying, config, os.getpid(), once))
    monkeypatch.setattr(planning, "_SMALL_BYTES", 0)
    wanted = Recipe.model_validate(recipe(folder, "on-a-cluster"))
    with cluster_session(wanted.cluster):
        on_cluster = label(folder, "on-a-cluster", ray_pool)
        assert once.exists()
        _check_the_map(ray_map, tmp_path)
        _check_one_alone(run_one)
    assert content(on_cluster) == content(calm)
    inputs = [planned_input(path, Asked.of(wanted)) for path in (on_cluster, calm)]
    assert inputs[0] == inputs[1]
    units = [
        {unit: receipt.unit_digest for unit, receipt in read_receipts(path).items()} for path in (on_cluster, calm)
    ]
    assert units[0] == units[1]
    assert len(units[0]) > 4


def _check_the_map(ray_map: Callable, tmp_path: Path) -> None:
    """In the cluster that is up anyway: results of all tasks, errors as they were, and what no worker survives."""

    def work(task: int) -> int:
        if task == 3:
            raise UnreadableDocument("document 3")
        return task * task

    def die(task: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def away_at_first(path: Path) -> str:
        if not path.exists():
            path.touch()
            raise StorageUnavailable("away")
        return path.name

    assert sorted(ray_map(work, iter([0, 1, 2, 4, 5, 6]))) == [(0, 0), (1, 1), (2, 4), (3, 16), (4, 25), (5, 36)]
    drawn: list[int] = []
    with pytest.raises(UnreadableDocument, match="document 3"):
        list(ray_map(work, (drawn.append(task) or task for task in range(1000))))
    assert len(drawn) < 100  # tasks are drawn as they can be run
    with pytest.raises(RuntimeError, match="TypeError: "):
        list(ray_map(work, iter([None])))
    assert list(ray_map(away_at_first, [tmp_path / "away"])) == [(0, "away")]
    with pytest.raises(ClusterError, match="die of part 0"):
        list(ray_map(die, [0]))


def _check_one_alone(run_one: Callable) -> None:
    def work(task: int) -> tuple[int, int]:
        if task == 0:
            raise UnreadableDocument("document 0")
        return task, os.getpid()

    def die(task: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    (one, first), (two, second) = run_one(work, 1, 1), run_one(work, 2, 1)
    assert (one, two) == (1, 2)
    assert len({first, second, os.getpid()}) == 3
    with pytest.raises(UnreadableDocument, match="document 0"):
        run_one(work, 0, 1)
    with pytest.raises(ClusterError, match="die must end on a worker"):
        run_one(die, 0, 1)


def test_labelling_lists_nothing_and_a_finished_store_reads_nothing(
    folder: Path, small_blocks: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_blocks(lambda config: partial(open_source, config))
    monkeypatch.setattr(BaseSource, "list", None)
    store = Path(label(folder, "finished"))
    events = (folder / "runs/finished/labels-events.jsonl").read_text()
    assert '"event": "Planned", "samples": 13, "distinct": 11, "units": 5' in events
    before = {file.name for file in (store / "plan").iterdir()}
    monkeypatch.setattr("kdcore.planning.survey.sample_key", None)
    assert label(folder, "finished") == str(store)
    assert {file.name for file in (store / "plan").iterdir()} == before
    removed = collect_garbage(store, min_age_seconds=0)
    assert {file.name for file in (store / "plan").iterdir()} == before - {
        name.removeprefix("plan/") for name in removed
    }
    assert [file.name.partition("-")[0] for file in (store / "plan").iterdir()] == ["input"]
    assert label(folder, "finished") == str(store)
    assert verify_store(store).ok


def test_an_unfinished_store_keeps_its_plan(folder: Path, small_blocks: Callable[..., None]) -> None:
    small_blocks(lambda config: partial(open_source, config))
    store = Path(label(folder, "stopped"))
    for file in (store / "manifest.json", *(store / "journal").glob("*")):
        file.unlink()
    kept = sorted((store / "plan").iterdir())
    (store / f"plan/.rows-{'0' * 32}-{'0' * 16}.arrow.partial").touch()
    assert all(name.startswith(("data/", "index-", "plan/.")) for name in collect_garbage(store, min_age_seconds=0))
    assert sorted((store / "plan").iterdir()) == kept
    assert content(label(folder, "stopped")) == content(label(folder, "in-one-process"))
