"""What models of transformers do to their head's outputs, done by the loss as well."""

from types import SimpleNamespace

import pytest
import torch

from kdcore.config import TrainingConfig
from kdcore.errors import ConfigError
from kdcore.losses.sparse.head import LogitRules, logit_rules
from kdcore.training.batches import TextBatch
from kdcore.training.model import DistillModel
from tests.support import tiny_sizes

SIZES = {**tiny_sizes.SIZES, "num_key_value_heads": 1}


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        ("gemma2", {"final_logit_softcapping": 0.2, "head_dim": 8}),
        ("cohere", {"logit_scale": 3.0}),
        ("granite", {"logits_scaling": 0.25}),
        ("llama", {}),
    ],
)
def test_the_loss_of_a_student_is_that_of_its_own_logits(model_type, settings):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **SIZES, **settings)
    student = transformers.AutoModelForCausalLM.from_config(config).double()  # in float32 machines round apart
    with torch.no_grad():
        student.get_output_embeddings().weight.mul_(10)  # so that logits are not all nearly 0
    input_ids, targets = torch.arange(8)[None], torch.arange(1, 9)
    logits = student(input_ids=input_ids).logits[0]
    wanted = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    model = DistillModel(student, TrainingConfig(steps=1), uses_labels=False)
    loss, _ = model(TextBatch(input_ids, torch.arange(8), targets, None))
    torch.testing.assert_close(loss, wanted)
    weight = student.get_input_embeddings().weight
    gradients = [torch.autograd.grad(value, weight, retain_graph=True)[0] for value in (loss, wanted)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("config", "rules"),
    [
        (None, LogitRules()),
        (SimpleNamespace(vocab_size=3), LogitRules()),
        (SimpleNamespace(final_logit_softcapping=None, logit_scale=1.0), LogitRules()),
        (SimpleNamespace(logits_soft_cap=30.0), LogitRules(1.0, 30.0)),
        (SimpleNamespace(output_multiplier=0.5, final_logit_softcapping=20), LogitRules(0.5, 20.0)),
        (SimpleNamespace(lm_head_multiplier=0.5, logits_scaling=4.0), LogitRules(0.125)),
        (SimpleNamespace(model_type="mpt", logit_scale="inv_sqrt_d_model"), LogitRules()),
    ],
)
def test_rules_by_the_names_of_configurations(config, rules):
    assert logit_rules(config) == rules


def test_rules_of_a_text_model_within_a_larger_one():
    text = SimpleNamespace(final_logit_softcapping=5.0)
    assert logit_rules(SimpleNamespace(get_text_config=lambda: text)) == LogitRules(1.0, 5.0)


def test_a_rule_that_is_no_positive_number_is_refused():
    with pytest.raises(ConfigError, match=r"logit_scale=0\.0"):
        logit_rules(SimpleNamespace(logit_scale=0.0))
