"""`kd store info` and `kd store verify`."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from jobs.store import app
from kdcore.store import open_for_writing, publish_manifest, publish_receipt, verify_store
from tests.support.stores import identity_of, make_store, rows_of, write_unit


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("stores") / "s")


def test_info_says_whose_and_how_heavy(path):
    done = CliRunner().invoke(app, ["info", str(path)])
    assert done.exit_code == 0
    for text in ("models/x", "type topk", "tail_log_prob", "statistics.nll", "1.5", "12"):
        assert text in done.output


def test_verify_passes_and_fails(path, tmp_path):
    assert CliRunner().invoke(app, ["verify", str(path)]).exit_code == 0
    bad = make_store(tmp_path / "bad")
    shard = next((bad / "data").glob("*.arrow"))
    os.truncate(shard, 100)
    for options in ([], ["--quick"]):
        done = CliRunner().invoke(app, ["verify", str(bad), *options])
        assert done.exit_code == 1
        assert shard.name in done.output


def test_what_is_no_store_is_one_message(tmp_path):
    done = CliRunner().invoke(app, ["info", str(tmp_path)])
    assert done.exit_code == 2


def test_help_needs_no_torch():
    code = "import sys, jobs.store; sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize(("kind", "change"), [("text", "occurrences"), ("image", "target"), ("text", "tokens")])
def test_full_verification_checks_ranges(tmp_path, kind, change):
    row = rows_of(0, kind)[1]
    wrong = {"occurrences": 0, "target": 50, "tokens": None if row.tokens is None else row.tokens + 50}
    bad = replace(row, **{change: wrong[change]})
    open_for_writing(tmp_path, identity_of(kind))
    receipt = publish_receipt(tmp_path, write_unit(tmp_path, 0, kind, rows=[bad]))
    publish_manifest(tmp_path, identity_of(kind), [receipt])
    problems = verify_store(tmp_path).problems
    assert len(problems) == 1
    assert f"column '{change}'" in problems[0]
