"""A merge or a compaction that dies around any step that makes something durable; then another run finishes it."""

import contextlib
import itertools
import os

import pytest
from test_store_kill import _die_at

from kdcore.errors import IncompleteStore
from kdcore.store import collect_garbage, compact_store, merge_stores, verify_store
from tests.support.store_tools import A, B, make_codec_store, rows_of


@pytest.mark.parametrize("tool", ["merge", "compact"])
def test_a_killed_run_continues(tmp_path, tool):
    """Killed before every step that makes something durable; the next run finishes what an undisturbed one makes."""
    a, b = make_codec_store(tmp_path / "a", "threshold", A), make_codec_store(tmp_path / "b", "threshold", B)
    make = {"merge": lambda out: merge_stores(out, [a, b]), "compact": lambda out: compact_store(b, out, 5000)}[tool]
    make(tmp_path / "whole")
    wanted = rows_of(tmp_path / "whole")
    for step in itertools.count():
        out = tmp_path / f"out{step}"
        child = os.fork()
        if child == 0:
            try:
                _die_at(step, step % 2 == 1, tmp_path / "log")
                make(out)
            finally:
                os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        with contextlib.suppress(IncompleteStore):
            assert rows_of(out) == wanted
        make(out)
        assert rows_of(out) == wanted
        collect_garbage(out, 0)
        assert verify_store(out).ok
        assert not verify_store(out).notes
    assert step > 15
