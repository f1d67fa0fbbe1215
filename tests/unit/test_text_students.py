"""What of a text student is trained: all that a text reaches, and nothing else."""

from pathlib import Path

import pytest
import torch

from kdcore.config.loss import LossConfig
from kdcore.config.models import LoraConfig, StudentLMConfig
from kdcore.data.tokenizer import load_tokenizer
from kdcore.losses.objective import Objective
from kdcore.students.build import build_text_student
from kdcore.training.batches import TextBatch
from kdcore.training.text_loss import text_loss
from tests.support.training import TOKENIZER

transformers = pytest.importorskip("transformers")
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURES = {**TEXT, "image_size": 28, "patch_size": 14}
LOSS = LossConfig()


@pytest.fixture(scope="module")
def multimodal(tmp_path_factory) -> Path:
    """A Gemma 3 of texts and images, as its larger checkpoints are."""
    folder = tmp_path_factory.mktemp("multimodal")
    sizes = {**TEXT, "vocab_size": 2048, "num_key_value_heads": 1, "head_dim": 8}
    images = {"image_token_index": 5, "mm_tokens_per_image": 4}
    config = transformers.Gemma3Config(text_config=sizes, vision_config=PICTURES, **images)
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("lora", [None, LoraConfig(rank=2)])
def test_every_trained_parameter_of_a_multimodal_student_gets_a_gradient_from_text(multimodal, lora):
    if lora is not None:
        pytest.importorskip("peft")
    config = StudentLMConfig(path=str(multimodal), tokenizer=TOKENIZER, lora=lora)
    student = build_text_student(config, load_tokenizer(TOKENIZER))
    numbers = torch.arange(6)
    loss, _ = text_loss(student, TextBatch(numbers[None], numbers, numbers, None), Objective(hard_weight=1.0), LOSS)
    loss.backward()
    found = {name: value.grad is not None for name, value in student.named_parameters()}
    trained = {name: value.requires_grad for name, value in student.named_parameters()}
    assert found == trained
    assert any("vision_tower" in name for name in trained)
    assert any("language_model" in name and value for name, value in trained.items())
