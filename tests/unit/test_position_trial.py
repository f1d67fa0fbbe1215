"""A student with fewer positions than a sequence has tokens is told before its first step."""

from typing import Any

import pytest

from kdcore.config import Recipe
from kdcore.errors import ConfigError
from kdcore.training.arms import Arm
from kdcore.training.position_trial import check_positions
from kdcore.training.run import run_arms
from tests.support.training import text_recipe, write_corpus

transformers = pytest.importorskip("transformers")
LEARNT: dict[str, Any] = {"model_type": "gpt2", "n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 1}
ROTARY = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 8}


def student(**settings: Any) -> Any:
    return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**settings, vocab_size=8))


def test_learnt_positions_end_and_rotary_ones_do_not():
    check_positions(student(**LEARNT), 16)
    with pytest.raises(ConfigError, match="longest sequence has 17 tokens, GPT2LMHeadModel 16 positions"):
        check_positions(student(**LEARNT), 17)
    with pytest.raises(ConfigError, match="GPTJForCausalLM 16 positions"):
        check_positions(student(**{**LEARNT, "model_type": "gptj", "rotary_dim": 4}), 17)
    check_positions(student(model_type="llama", hidden_size=8, max_position_embeddings=16, **ROTARY), 17)


def test_a_decoder_without_position_ids_is_not_tried():
    check_positions(student(model_type="bloom", hidden_size=8, n_layer=1, n_head=1), 1_000_000)


def test_a_recipe_is_told_what_to_set(tmp_path):
    write_corpus(tmp_path / "corpus", documents=3)
    recipe = text_recipe(tmp_path, "run").model_dump(mode="json")
    recipe["student"]["architecture"] = LEARNT
    with pytest.raises(ConfigError, match=r"training\.sequence_length to at most that"):
        run_arms(Recipe.model_validate(recipe), [Arm("student-seed0", 0, uses_labels=False)])
