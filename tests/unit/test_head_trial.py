"""A student whose logits are not its head's product with its hidden states is told before it learns others."""

from typing import Any

import pytest
import torch

from kdcore import distillation_loss, with_distillation_loss
from kdcore.config import Recipe
from kdcore.errors import ConfigError
from kdcore.training.arms import Arm
from kdcore.training.batches import TextBatch
from kdcore.training.head_trial import check_logits
from kdcore.training.run import run_arms
from tests.support.tiny_sizes import SIZES
from tests.support.training import text_recipe, write_corpus

transformers = pytest.importorskip("transformers")
NUMBERS = torch.arange(6)
BATCH = TextBatch(NUMBERS[None], NUMBERS, NUMBERS + 1, None)


def student(model_type: str, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **SIZES, **settings)
    return transformers.AutoModelForCausalLM.from_config(config)


def adapted(**settings: Any) -> Any:
    peft = pytest.importorskip("peft")
    model = student("llama", num_key_value_heads=1, tie_word_embeddings=False)
    return peft.get_peft_model(model, peft.LoraConfig(**settings))


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("llama", {"num_key_value_heads": 1}),
        ("phi", {"num_key_value_heads": 2}),  # whose head has a bias
        ("gemma2", {"num_key_value_heads": 1, "head_dim": 8, "final_logit_softcapping": 0.2}),
    ],
)
def test_students_whose_logits_the_loss_makes_are_taken_and_left_as_they_were(model_type, settings):
    model = student(model_type, **settings).train()
    model.get_decoder().layers[0].eval()
    before = [module.training for module in model.modules()]
    assert set(before) == {True, False}
    for precision in (torch.float32, torch.bfloat16):
        check_logits(model.to(precision))
    assert [module.training for module in model.modules()] == before


def test_a_student_of_flash_attention_is_tried_without_it():
    """Which runs on GPUs alone; here it is not even installed."""
    model, asked = student("llama", num_key_value_heads=1), []

    def ask(name: str) -> None:
        asked.append(name)
        model.config._attn_implementation_internal = name

    ask("flash_attention_2")
    model.set_attn_implementation = ask
    check_logits(model)
    assert asked == ["flash_attention_2", "eager", "flash_attention_2"]


def test_a_layer_before_the_head_is_refused():
    model = student("bert", is_decoder=True)
    with pytest.raises(ConfigError, match=r"those of BertLMHeadModel are others: up to .* apart"):
        check_logits(model)


def test_a_scale_by_another_name_is_refused():
    model = student("llama", num_key_value_heads=1)
    model.lm_head.register_forward_hook(lambda head, given, logits: logits * 1.01)
    with pytest.raises(ConfigError, match="a scale or cap by a name that is not known here"):
        check_logits(model)


def test_a_decoder_that_is_none_is_refused_in_words():
    model = student("llama", num_key_value_heads=1)
    model.get_decoder = lambda: model.lm_head
    with pytest.raises(ConfigError, match=r"get_decoder\(\) does not give them .*input_ids"):
        check_logits(model)


def test_adapters_of_the_head_are_refused_and_a_head_that_is_trained_whole_is_not():
    with pytest.raises(ConfigError, match=r"lora_A\.default\.weight.*neither heard nor trained"):
        check_logits(adapted(target_modules=["q_proj", "lm_head"]))
    check_logits(adapted(target_modules=["q_proj"], modules_to_save=["lm_head"]))


def test_loops_of_ones_own_are_told_too():
    for use in (lambda model: distillation_loss(model, BATCH), with_distillation_loss):
        with pytest.raises(ConfigError, match="are others"):
            use(student("bert", is_decoder=True))


def test_a_recipe_is_told_before_its_first_step(tmp_path):
    write_corpus(tmp_path / "corpus", documents=3)
    recipe = text_recipe(tmp_path, "run").model_dump(mode="json")
    recipe["student"]["architecture"] = {"model_type": "bert", "is_decoder": True, **SIZES, "vocab_size": 2048}
    with pytest.raises(ConfigError, match="those of BertLMHeadModel are others"):
        run_arms(Recipe.model_validate(recipe), [Arm("student-seed0", 0, uses_labels=False)])


def test_a_model_whose_parameters_are_still_to_come_is_not_tried():
    with torch.device("meta"):
        model = student("llama", num_key_value_heads=1)
    assert with_distillation_loss(model) is model
