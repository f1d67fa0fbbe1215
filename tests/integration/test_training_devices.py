"""Which devices a student's worker sees, and how long workers wait for one another."""

import os
from typing import Any

from cluster import training
from kdcore.config import Recipe
from kdcore.training.arms import plan_arms


def test_a_worker_that_asked_for_no_gpu_sees_none_and_waits_for_the_first_for_hours(tmp_path, monkeypatch):
    def seen(config: dict[str, object]) -> dict[str, dict[str, object]]:
        import torch
        import torch.distributed as dist

        group: Any = dist.group.WORLD  # which Ray Train made
        seconds = group._get_backend(torch.device("cpu")).options._timeout.total_seconds()
        told = {"gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "path": os.environ.get("PYTHONPATH")}
        return {"worker": {**told, "waits": seconds}}

    monkeypatch.setattr(training, "_train_loop", seen)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("PYTHONPATH", "here")
    recipe = Recipe.model_validate(
        {
            "name": "devices",
            "runs": str(tmp_path),
            "data": {"type": "python_stdlib"},
            "student": {"type": "causal_lm", "path": "models/stdlib-lm-4m"},
            "training": {"steps": 1},
            "cluster": {"workers": 1},
        }
    )
    found = training.fit_on_ray(recipe, plan_arms(recipe))["worker"]
    assert found["gpus"] == ""
    assert str(found["path"]).endswith("here")
    assert found["waits"] == 2 * 3600
