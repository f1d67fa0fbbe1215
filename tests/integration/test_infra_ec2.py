"""infra/ray/aws.yaml against the description of EC2's interface that comes with botocore."""

from pathlib import Path

import pytest
import yaml


def test_ec2_knows_the_machines_and_their_settings(repo: Path) -> None:
    session = pytest.importorskip("botocore.session").get_session()
    from botocore.validate import ParamValidator

    model = session.get_service_model("ec2")
    request = model.operation_model("RunInstances").input_shape
    config = yaml.safe_load((repo / "infra" / "ray" / "aws.yaml").read_text())
    for node in config["available_node_types"].values():
        given = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        assert given["InstanceType"] in model.shape_for("InstanceType").enum
        assert not ParamValidator().validate(given, request).has_errors()
        assert ParamValidator().validate({**given, "InstanceTyp": "m6i.large"}, request).has_errors()
