"""infra/ as far as it can be held without an engine, a cluster or an account: syntax, schemas, pins, closed doors."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.metrics import METRICS

INSTRUCTIONS = {"FROM", "RUN", "ENV", "ARG", "WORKDIR", "COPY", "USER", "CMD", "ENTRYPOINT", "LABEL", "EXPOSE", "SHELL"}
LAUNCHERS = ("on-prem", "aws", "gcp")
MANIFESTS = ("raycluster", "rayjob")
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY|\bhf_[A-Za-z0-9]{20,}|\bghp_[A-Za-z0-9]{20,}|\b[0-9a-f]{64}\b"
    r"|(?:RAY_AUTH_TOKEN|AWS_SECRET_ACCESS_KEY|AWS_ACCESS_KEY_ID|password|auth_token)['\"]?\s*[=:]\s*['\"]?[\w+/-]{8,}",
    re.IGNORECASE,
)


@pytest.fixture
def infra(repo: Path) -> Path:
    return repo / "infra"


@pytest.fixture
def ray_pin(repo: Path) -> str:
    return re.findall(r"^ray==(\S+)$", (repo / "constraints.txt").read_text(), re.MULTILINE)[0]


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def spec_of_cluster(path: Path) -> dict[str, Any]:
    spec = documents(path)[0]["spec"]
    return spec.get("rayClusterSpec", spec)


def instructions(path: Path) -> list[tuple[str, str]]:
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined)]


def test_every_yaml_file_loads(infra: Path) -> None:
    paths = sorted(infra.rglob("*.yaml"))
    assert len(paths) >= 6
    for path in paths:
        assert all(isinstance(document, dict) for document in documents(path)), path


@pytest.mark.parametrize("name", LAUNCHERS)
def test_rays_schema_takes_the_launcher_files(name: str, infra: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    found = importlib.util.find_spec("ray")
    if found is None or found.origin is None:
        pytest.skip("needs ray's schema")
    schema = json.loads((Path(found.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    config = documents(infra / "ray" / f"{name}.yaml")[0]
    if config["provider"]["type"] == "local":  # Ray moves it into the one node type before it looks at the schema
        assert 0 <= config.pop("min_workers") <= config["max_workers"] == len(config["provider"]["worker_ips"])
    jsonschema.validate(config, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**config, "max_workrs": 1}, schema)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_launchers_are_closed(name: str, infra: Path) -> None:
    config = documents(infra / "ray" / f"{name}.yaml")[0]
    starts = [
        command
        for node in ("head", "worker")
        for command in config[f"{node}_start_ray_commands"]
        if "ray start" in command
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in command and "RAY_AUTH_TOKEN_PATH=" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert "chmod 600 ~/.ray/auth_token" in config["setup_commands"]


@pytest.mark.parametrize("name", LAUNCHERS[1:])
def test_cloud_workers_are_spot_and_start_at_none(name: str, infra: Path) -> None:
    config = documents(infra / "ray" / f"{name}.yaml")[0]
    types = config["available_node_types"]
    assert config["head_node_type"] in types
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["gpu-spot"]["min_workers"] == 0 < types["gpu-spot"]["max_workers"] <= config["max_workers"]
    assert "spot" in json.dumps(types["gpu-spot"]["node_config"]).lower()
    assert "spot" not in json.dumps(types["head"]["node_config"]).lower()


def test_google_clouds_spot_nodes_are_stopped_and_not_moved(infra: Path) -> None:
    scheduling = documents(infra / "ray" / "gcp.yaml")[0]["available_node_types"]["gpu-spot"]["node_config"][
        "scheduling"
    ]
    # The API's `Scheduling` is one object; a GPU cannot move to another host, nor a spot node start again by itself.
    assert scheduling == {"provisioningModel": "SPOT", "onHostMaintenance": "TERMINATE", "automaticRestart": False}


@pytest.mark.parametrize(("name", "kind"), [("raycluster", "RayCluster"), ("rayjob", "RayJob")])
def test_manifests_are_kuberays(name: str, kind: str, infra: Path, ray_pin: str) -> None:
    first, *others = documents(infra / "kuberay" / f"{name}.yaml")
    assert (first["apiVersion"], first["kind"]) == ("ray.io/v1", kind)
    assert first["metadata"]["name"]
    assert {other["kind"] for other in others} == {"NetworkPolicy", "PersistentVolumeClaim"}
    if kind == "RayJob":
        assert "kd distill" in first["spec"]["entrypoint"]
    spec = spec_of_cluster(infra / "kuberay" / f"{name}.yaml")
    assert spec["rayVersion"] == ray_pin
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


@pytest.mark.parametrize("name", MANIFESTS)
def test_pods_are_unprivileged_and_whole(name: str, infra: Path) -> None:
    path = infra / "kuberay" / f"{name}.yaml"
    spec = spec_of_cluster(path)
    claim = next(document for document in documents(path) if document["kind"] == "PersistentVolumeClaim")
    pods = [("ray-head", spec["headGroupSpec"])] + [("ray-worker", group) for group in spec["workerGroupSpecs"]]
    assert len(pods) == 3
    for container_name, group in pods:
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        assert container["name"] == container_name
        assert pod["terminationGracePeriodSeconds"] > 0
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert "secretRef" in container["envFrom"][0]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        assert volumes["runs"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    spot = pods[-1][1]["template"]["spec"]
    assert spot["nodeSelector"]
    assert spot["tolerations"]
    assert spot["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_an_open_dashboard_is_behind_a_network_policy(infra: Path) -> None:
    for path in sorted(infra.rglob("*.yaml")):
        found = documents(path)
        if "0.0.0.0" not in json.dumps(found):
            continue
        policies = [document for document in found if document["kind"] == "NetworkPolicy"]
        assert policies, path
        for rule in policies[0]["spec"]["ingress"]:
            assert rule["from"], path
            assert all(source.get("podSelector") or source.get("namespaceSelector") for source in rule["from"])


def test_no_secret_is_written_down(infra: Path) -> None:
    for path in sorted(path for path in infra.rglob("*") if path.is_file()):
        assert SECRET.search(path.read_text()) is None, path
    assert SECRET.search("RAY_AUTH_TOKEN=0123456789abcdef")


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_dockerfiles(name: str, infra: Path, repo: Path) -> None:
    steps = instructions(infra / "docker" / f"Dockerfile.{name}")
    assert {word for word, _ in steps} <= INSTRUCTIONS
    assert steps[0][0] == "FROM"
    for image in (rest for word, rest in steps if word == "FROM"):
        assert ":" in image
        assert not image.endswith(":latest")
    assert [rest for word, rest in steps if word == "USER"][-1] not in ("root", "0")
    install = [rest for word, rest in steps if word == "RUN" and "pip install" in rest]
    assert install == ["pip install -c constraints.txt '.[all]'"]
    ignored = (infra / "docker" / f"Dockerfile.{name}.dockerignore").read_text().splitlines()
    for source in (part for word, rest in steps if word == "COPY" for part in rest.split()[:-1]):
        assert (repo / source).exists()
        assert f"!{source.rstrip('/')}" in ignored


def test_the_images_named_anywhere_have_a_tag(infra: Path) -> None:
    for path in sorted(infra.rglob("*.yaml")):
        for image in re.findall(r"^\s*(?:- )?image: (\S+)$", path.read_text(), re.MULTILINE):
            assert ":" in image
            assert not image.endswith(":latest")


def test_the_dashboard_draws_the_metrics_that_there_are(infra: Path) -> None:
    board = json.loads((infra / "grafana" / "kdcore-labelling.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    drawn = {name for expression in expressions for name in re.findall(r"\bray_\w+", expression)}
    assert drawn == {f"ray_{name}" for name in METRICS}
    for name, (_, labels, _) in METRICS.items():
        used = [expression for expression in expressions if f"ray_{name}" in expression]
        assert all(label in used[0] for label in labels)
