"""Labelling's metrics as a Prometheus would scrape them from a node, under the names that infra/grafana draws."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tiny_teacher import recipe, write_documents, write_teacher

from cluster.metrics import METRICS
from kdcore.store import load_manifest

# Labels in a session of this process, then scrapes its node until all names in argv and all tokens are there.
PROGRAM = """
import json, re, sys, time, urllib.request
from cluster.connect import cluster_session, import_ray
from cluster.labelling.run import label_store
from kdcore.config import Recipe
from kdcore.store import load_manifest

recipe = Recipe.model_validate_json(sys.argv[1])
with cluster_session(recipe.cluster):
    labels = load_manifest(label_store(recipe)).num_labels
    address = "http://127.0.0.1:%d/metrics" % import_ray().nodes()[0]["MetricsExportPort"]
    for _ in range(120):
        with urllib.request.urlopen(address, timeout=30) as answer:
            text = answer.read().decode()
        tokens = re.findall(r"^ray_kdcore_tokens_total.* (\\S+)$", text, re.MULTILINE)
        if all(name in text for name in sys.argv[2:]) and float(tokens[0]) == labels:
            break
        time.sleep(0.5)
    lines = [line for line in text.splitlines() if line.startswith("ray_kdcore") or " ray_kdcore" in line]
    print("SCRAPED", json.dumps(lines))
"""
# Nothing fails in this run.
_SILENT = {"kdcore_retries_total"}
_SAMPLE = re.compile(r"(\w+)\{(.*)\} (\S+)")


def test_a_scrape_of_the_node_finds_every_metric_under_the_dashboards_name(tmp_path: Path, repo: Path) -> None:
    write_documents(tmp_path / "docs", 6)
    write_teacher(tmp_path / "teacher")
    settings = recipe(tmp_path, "seen", cluster={"replicas": 1, "cpus_per_replica": 1})
    wanted = [f"ray_{name}" for name in METRICS.keys() - _SILENT]
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(settings), *wanted],
        env=os.environ | {"RAY_metrics_report_interval_ms": "500", "PYTHONPATH": str(repo)},
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    lines = json.loads(found.stdout.split("SCRAPED ")[1])
    samples = [match.groups() for line in lines if (match := _SAMPLE.fullmatch(line))]
    assert {name for name, _, _ in samples} == set(wanted), lines
    kinds = dict(line.split()[2:4] for line in lines if line.startswith("# TYPE"))
    assert all(kinds[f"ray_{name}"] == METRICS[name][0] for name in METRICS.keys() - _SILENT)
    assert all('job_name="seen"' in labels for _, labels, _ in samples)

    manifest = load_manifest(tmp_path / "runs" / "seen" / "labels")
    values = {(name, "done" in labels): float(value) for name, labels, value in samples}
    assert values["ray_kdcore_tokens_total", False] == manifest.num_labels
    assert 0 < values["ray_kdcore_teacher_mfu", False] < 1
    assert 0 < manifest.extra["statistics"]["teacher_mfu"] < 1
    board = (repo / "infra" / "grafana" / "kdcore-labelling.json").read_text()
    assert {f"ray_{name}" for name in METRICS} == set(re.findall(r"\bray_kdcore_\w+", board))
