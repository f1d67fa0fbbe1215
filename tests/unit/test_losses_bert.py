"""Losses of transformers on real ones: two small BERTs, tapped as a recipe names their modules."""

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

from kdcore.config.losses import FeatureTerm
from kdcore.losses.method import LossInputs, Shapes
from kdcore.losses.registry import make_method
from kdcore.losses.transformer.attention import scores_of
from kdcore.models.image_sources import LogitsOnly
from kdcore.taps import Taps, feature_shapes
from tests.support.methods import term

HEADS, LENGTH = 2, 5
SELF = "bert.encoder.layer.{}.attention.self"
RECIPE = {
    "pkd": {"at": "bert.encoder.layer.0", "teacher_at": "bert.encoder.layer.1"},
    "hidden_states": {"at": ["bert.embeddings", "bert.encoder.layer.0"]},
    "hidden_cosine": {"at": "bert.encoder.layer.0"},
    "mobilebert": {"at": "bert.encoder.layer.0"},
    "lrc_bert": {"at": "bert.encoder.layer.0"},
    "alp": {"at": "bert.encoder.layer.0", "teacher_at": ["bert.encoder.layer.0", "bert.encoder.layer.1"]},
    "attention_scores": {"at": [f"{SELF.format(0)}.query", f"{SELF.format(0)}.key"], "heads": HEADS},
    "attention_maps": {"at": [f"{SELF.format(0)}.query", f"{SELF.format(0)}.key"], "heads": HEADS},
    "minilm": {"at": [f"{SELF.format(0)}.{name}" for name in ("query", "key", "value")], "heads": 4},
}


def bert(width: int, layers: int, implementation: str) -> BertForSequenceClassification:
    torch.manual_seed(width)
    config = BertConfig(
        vocab_size=20,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=2 * width,
        max_position_embeddings=LENGTH,
        num_labels=3,
        initializer_range=0.5,
        attn_implementation=implementation,
    )
    return BertForSequenceClassification(config).eval()


@pytest.fixture(scope="module")
def networks():
    """A student of width 8 and a teacher of width 12."""
    return bert(8, 1, "sdpa"), bert(12, 2, "eager")


IDS = torch.arange(2 * LENGTH).view(2, LENGTH)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()


def tapped(model: nn.Module, paths: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
    with Taps(model, paths) as taps:
        return model(input_ids=IDS, attention_mask=MASK.long()).logits, taps.outputs


@pytest.mark.parametrize("name", RECIPE)
def test_a_student_comes_nearer_to_its_teacher(networks, name):
    student, teacher = networks
    loss = term(name, **RECIPE[name])
    assert isinstance(loss, FeatureTerm)
    ours, theirs = loss.at, loss.teacher_paths
    with torch.no_grad():
        goal, features = tapped(teacher, theirs)

    def shapes(found: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
        return {path: tuple(tensor.shape[1:]) for path, tensor in found.items()}

    torch.manual_seed(0)
    method = make_method(loss, Shapes(shapes(tapped(student, ours)[1]), shapes(features), 3, 2))
    start = {key: value.clone() for key, value in student.state_dict().items()}
    optimizer = torch.optim.Adam([*student.parameters(), *method.parameters()], lr=0.02)
    values = []
    for _ in range(8):
        logits, found = tapped(student, ours)
        value = method(LossInputs(logits, goal, torch.zeros(2).long(), found, features, mask=MASK))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    student.load_state_dict(start)
    assert values[-1] < 0.8 * values[0]


def test_a_vision_transformer_is_named_as_the_docs_say():
    shape = {
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "intermediate_size": 8,
        "image_size": 8,
        "patch_size": 4,
    }
    model = LogitsOnly(ViTForImageClassification(ViTConfig(hidden_size=8, **shape)))
    paths = [f"model.vit.layers.0.attention.{name}_proj" for name in "qkv"]
    found = feature_shapes(model, Taps(model, [*paths, "model.vit.layers.0"]), torch.zeros(1, 3, 8, 8))
    assert set(found.values()) == {(5, 8)}
    make_method(term("attention_maps", at=paths[:2], heads=HEADS), Shapes(found, found, 2, 1))


def test_attention_made_again_is_the_attention_of_the_model(networks):
    _, teacher = networks
    paths = tuple(f"{SELF.format(1)}.{name}" for name in ("query", "key"))
    with torch.no_grad(), Taps(teacher, paths) as taps:
        wanted = teacher(input_ids=IDS, attention_mask=MASK.long(), output_attentions=True).attentions[1]
    scores = scores_of(taps.outputs[paths[0]], taps.outputs[paths[1]], HEADS)
    found = scores.masked_fill(~MASK[:, None, None], float("-inf")).softmax(-1)
    torch.testing.assert_close(found, wanted)
