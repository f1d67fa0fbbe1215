"""Labelling's metrics as a Prometheus would scrape them from a node, under the names that infra/grafana draws."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from cluster.metrics import METRICS
from kdcore.store import load_manifest
from tests.support.tiny_teacher import recipe, write_documents, write_teacher

# Labels in a session, scraping its node until all names in argv and all tokens were seen; a gauge is
# exported only for a while after it was set.
PROGRAM = """
import json, sys, threading, time, urllib.request
from cluster.connect import cluster_session, import_ray
from cluster.labelling.run import label_store
from kdcore.config import Recipe
from kdcore.store import load_manifest

recipe, wanted, seen = Recipe.model_validate_json(sys.argv[1]), set(sys.argv[2:]), {}

def scrape():
    while True:
        with urllib.request.urlopen(address, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        for line in lines:
            if line.startswith(("ray_kdcore", "# TYPE ray_kdcore")):
                sample, _, value = line.rpartition(" ")
                seen[sample] = value
        time.sleep(0.2)

with cluster_session(recipe.cluster):
    address = "http://127.0.0.1:%d/metrics" % import_ray().nodes()[0]["MetricsExportPort"]
    threading.Thread(target=scrape, daemon=True).start()
    labels = load_manifest(label_store(recipe)).num_labels
    for _ in range(200):
        time.sleep(0.3)
        found = dict(seen)
        tokens = [float(value) for sample, value in found.items() if sample.startswith("ray_kdcore_tokens_total")]
        if tokens == [labels] and wanted <= {sample.partition("{")[0] for sample in found}:
            break
    print("SCRAPED", json.dumps(found))
"""
# Nothing fails in this run.
_SILENT = {"kdcore_retries_total"}


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
    seen = json.loads(found.stdout.split("SCRAPED ")[1])
    kinds = {sample.split()[2]: value for sample, value in seen.items() if sample.startswith("# TYPE")}
    assert kinds == {f"ray_{name}": METRICS[name][0] for name in METRICS.keys() - _SILENT}
    values = {
        (sample.partition("{")[0], "done" in sample): float(value) for sample, value in seen.items() if "{" in sample
    }
    assert {name for name, _ in values} == set(wanted)
    assert all('job_name="seen"' in sample for sample in seen if "{" in sample)

    manifest = load_manifest(tmp_path / "runs" / "seen" / "labels")
    assert values["ray_kdcore_tokens_total", False] == manifest.num_labels
    # Of a peak that was measured while others had the machine: no upper bound.
    assert values["ray_kdcore_teacher_mfu", False] > 0
    assert manifest.extra["statistics"]["teacher_mfu"] > 0
    board = (repo / "infra" / "grafana" / "kdcore-labelling.json").read_text()
    assert {f"ray_{name}" for name in METRICS} == set(re.findall(r"\bray_kdcore_\w+", board))
