"""One of two ranks cannot read its checkpoint: both end and say so, none waits for the other."""

from pathlib import Path

import pytest

from kdcore.training.checkpoint import latest_checkpoint
from tests.support.engine_worker import ARM, start
from tests.support.training import text_recipe, write_corpus, write_labels


@pytest.mark.timeout(300)
def test_an_error_of_one_rank_that_loads_is_one_of_all(tmp_path: Path):
    pytest.importorskip("deepspeed")
    engines = {"torch": {}, "zero2": {"engine": {"type": "deepspeed", "zero_stage": 2}}}
    write_corpus(tmp_path / "corpus")
    write_labels(text_recipe(tmp_path, "labels", teacher=True))
    phases = ({"stop_at": 2}, {"unreadable": True})
    start(tmp_path, *((2, {name: settings | more for name, settings in engines.items()}) for more in phases))
    for name in engines:
        assert latest_checkpoint(tmp_path / "runs" / name / "arms" / ARM.name / "checkpoints", print) == 2
    start(tmp_path, (2, engines))
