"""What an engine is told, and which settings go together."""

import sys

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from kdcore.config.models import LoraConfig, StudentLMConfig
from kdcore.config.training import DeepSpeedEngineConfig, OptimizerConfig, TrainingConfig
from kdcore.errors import ConfigError, MissingExtra
from kdcore.students.build import checkpoint_activations
from kdcore.students.lora import with_adapters
from kdcore.training.engines.deepspeed_settings import deepspeed_settings
from kdcore.training.ranks import Ranks

CPU, GPU = (Ranks(0, 2, torch.device(name)) for name in ("cpu", "cuda"))


def told(ranks: Ranks = CPU, precision: str = "float32", optimizer: dict | None = None, **engine) -> dict:
    config = TrainingConfig.model_validate(
        {
            "steps": 1,
            "precision": precision,
            "optimizer": optimizer or {},
            "engine": {"type": "deepspeed", **engine},
        }
    )
    assert isinstance(config.engine, DeepSpeedEngineConfig)
    return deepspeed_settings(config, config.engine, ranks, micro_batches=3)


def test_extra_settings_are_merged_beside_ours():
    found = told(zero_stage=2, extra={"zero_optimization": {"overlap_comm": False}, "wall_clock_breakdown": True})
    assert found["zero_optimization"] == {"stage": 2, "overlap_comm": False}
    assert found["wall_clock_breakdown"] is True
    assert found["gradient_accumulation_steps"] == 3


@pytest.mark.parametrize(
    "extra",
    [
        {"train_batch_size": 4},
        {"optimizer": {"type": "Adam"}},
        {"zero_optimization": {"stage": 3}},
        {"gradient_clipping": 2.0},
        {"bf16": {"enabled": True}},
        {"bf16": {"check_grad_overflow": False}},
        {"fp16": {"enabled": True}},
        {"checkpoint": {"load_universal": True}},
        {"data_types": {"grad_accum_dtype": "fp32"}},
    ],
)
def test_extra_settings_cannot_disagree_with_ours(extra):
    with pytest.raises(ConfigError, match=next(iter(extra))):
        told(extra=extra)


def test_offloading_to_host_memory_and_to_disk():
    cpu = told(zero_stage=3, offload_optimizer="cpu", offload_parameters="cpu")["zero_optimization"]
    assert cpu["offload_optimizer"] == cpu["offload_param"] == {"device": "cpu", "pin_memory": False}
    disk = {"device": "nvme", "pin_memory": True, "nvme_path": "/fast"}
    found = told(GPU, zero_stage=3, offload_optimizer="nvme", offload_parameters="nvme", offload_path="/fast")
    assert found["zero_optimization"]["offload_optimizer"] == found["zero_optimization"]["offload_param"] == disk
    # DeepSpeed's own Adam where the state is in host memory beside a GPU, else torch's.
    assert found["optimizer"]["params"]["torch_adam"] is False
    assert told(GPU, zero_stage=2)["optimizer"]["params"]["torch_adam"] is True
    assert told(zero_stage=2, offload_optimizer="cpu")["optimizer"]["params"]["torch_adam"] is True


def test_deepspeed_is_told_the_optimizer_alone_that_the_recipe_names():
    adam = told()["optimizer"]
    assert adam["type"] == "AdamW"
    assert adam["params"] == {"lr": 1e-3, "weight_decay": 0.0, "betas": [0.9, 0.95], "eps": 1e-8, "torch_adam": True}
    sgd = told(optimizer={"type": "sgd", "learning_rate": 0.1, "nesterov": True}, zero_stage=2)
    wanted = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.9, "nesterov": True}
    assert sgd["optimizer"] == {"type": "SGD", "params": wanted}
    assert sgd["zero_allow_untested_optimizer"] is True
    assert sgd["zero_force_ds_cpu_optimizer"] is False


@pytest.mark.parametrize(
    ("optimizer", "words"),
    [
        ({"type": "sgd", "betas": (0.9, 0.9)}, "`betas` is of type adamw, but type is 'sgd'"),
        ({"momentum": 0.9}, "`momentum` is of type sgd, but type is 'adamw'"),
        ({"nesterov": False}, "`nesterov` is of type sgd"),
        ({"type": "sgd", "momentum": 0.0, "nesterov": True}, "nesterov looks ahead"),
        ({"milestones": (0.5, 0.5)}, r"rising, got \[0\.5, 0\.5\]"),
        ({"milestones": (0.5, 1.0)}, "between 0 and 1"),
        ({"milestones": ()}, "milestones must be"),
    ],
)
def test_settings_of_an_optimizer_that_do_not_go_together_are_refused(optimizer, words):
    with pytest.raises(ValidationError, match=words):
        OptimizerConfig.model_validate(optimizer)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_resolved_optimizer_can_be_read_back(kind):
    config = OptimizerConfig.model_validate({"type": kind, "schedule": "step"})
    assert OptimizerConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"zero_stage": 2, "offload_parameters": "cpu"}, "offload_parameters 'cpu' needs zero_stage 3, got 2"),
        ({"zero_stage": 0, "offload_optimizer": "cpu"}, "needs zero_stage 1, 2 or 3, got 0"),
        ({"zero_stage": 2, "offload_optimizer": "nvme", "offload_path": "/x"}, "'nvme' needs zero_stage 3, got 2"),
        ({"zero_stage": 3, "offload_optimizer": "nvme"}, "offload_path and nvme go together"),
        ({"zero_stage": 3, "offload_optimizer": "cpu", "offload_path": "/x"}, "offload_path and nvme go together"),
    ],
)
def test_what_deepspeed_cannot_offload_is_refused_before_it_is_imported(engine, words):
    with pytest.raises(ValidationError, match=words):
        DeepSpeedEngineConfig.model_validate(engine)


def test_sums_of_bfloat16_gradients_are_float32_where_deepspeed_keeps_a_right_norm():
    assert "data_types" not in told(precision="bfloat16", zero_stage=1)
    assert told(precision="bfloat16", zero_stage=2)["data_types"] == {"grad_accum_dtype": "fp32"}
    assert "data_types" not in told(zero_stage=2)


def test_activations_are_computed_again_only_by_a_student_that_knows_how():
    class Knows(nn.Linear):
        asked: dict | None = None

        def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs):
            self.asked = gradient_checkpointing_kwargs

    student = Knows(1, 1)
    checkpoint_activations(student)
    assert student.asked == {"use_reentrant": False}
    with pytest.raises(ConfigError, match=r"training\.activation_checkpointing.*Linear does not"):
        checkpoint_activations(nn.Linear(1, 1))


def test_adapters_need_a_model_to_adapt():
    assert StudentLMConfig.model_validate({"path": "x", "lora": {"rank": 2}}).lora == LoraConfig(rank=2)
    with pytest.raises(ValidationError, match="set `path`"):
        StudentLMConfig.model_validate({"architecture": {"model_type": "llama"}, "lora": {}})


def test_without_peft_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"^student\.lora needs 'peft', .*pip install 'kdcore\[lora\]'$"):
        with_adapters(nn.Linear(1, 1), LoraConfig())


@pytest.mark.parametrize(
    ("targets", "words"), [(("lm_head",), "head or the embedding"), (("nothing",), "does not fit the student")]
)
def test_target_modules_that_cannot_be_adapted_are_refused(targets, words):
    pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=16, num_key_value_heads=1, **shape))
    with pytest.raises(ConfigError, match=words):
        with_adapters(model, LoraConfig(target_modules=targets))
