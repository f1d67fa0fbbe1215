"""Packed sequences train a student as the same sequences do alone: inputs, labels, loss and gradients."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from kdcore.config import TrainingConfig
from kdcore.config.training import LongDocuments
from kdcore.data.chunks import Masked
from kdcore.errors import ConfigError, DataError
from kdcore.labels.soft_labels import DenseLabels
from kdcore.training import attention, varlen
from kdcore.training.attention import choose_layout
from kdcore.training.model import DistillModel
from kdcore.training.packing import Layout
from kdcore.training.step_plan import StepPlan
from kdcore.training.text_samples import TextSamples

VOCABULARY = 50
LAYOUTS: tuple[Layout, ...] = ("padded", "rows", "flat")


class RowsInMemory:
    """Documents of given lengths whose labels tell them apart; `every` second, third ... token is labelled."""

    changes = False

    def __init__(self, lengths: list[int], every: int = 1) -> None:
        draw = np.random.default_rng(0)
        self._tokens = [draw.integers(0, VOCABULARY, length) for length in lengths]
        self._places = [np.arange(0, length - 1, every) for length in lengths]
        generator = torch.Generator().manual_seed(1)
        self._labels = [torch.randn(len(places), VOCABULARY, generator=generator) for places in self._places]
        self._masked = every > 1

    def num_tokens(self) -> np.ndarray:
        return np.array([len(tokens) for tokens in self._tokens])

    def occurrences(self) -> np.ndarray:
        return np.array([2, *[1] * (len(self._tokens) - 1)])

    def masked(self) -> Masked | None:
        counts = np.array([len(places) for places in self._places])
        return Masked(counts, lambda row: self._places[row]) if self._masked else None

    def tokens_of(self, rows: np.ndarray) -> list[np.ndarray]:
        return [self._tokens[row] for row in rows]

    def labels_of(self, rows: np.ndarray, starts: np.ndarray, stops: np.ndarray, epochs: np.ndarray) -> DenseLabels:
        parts = [self._labels[row][start:stop] for row, start, stop in zip(rows, starts, stops, strict=True)]
        return DenseLabels(torch.cat(parts).log_softmax(-1))

    def triples(self) -> list[tuple[int, int, float]]:
        """(token, next token, a number of its label) of everything to learn, row by row, looked up one at a time."""
        found = []
        for row, times in enumerate(self.occurrences()):
            tokens, scores = self._tokens[row], self._labels[row].log_softmax(-1)[:, 3]
            for number, place in enumerate(self._places[row].tolist()):
                found += [(int(tokens[place]), int(tokens[place + 1]), float(scores[number]))] * int(times)
        return found


RAGGED = [9, 2, 17, 1, 5, 12, 3, 8, 30, 4]


def samples_of(lengths: list[int], every: int = 1, width: int = 16, rule: LongDocuments = "cut") -> TextSamples:
    return TextSamples(RowsInMemory(lengths, every), width, True, rule)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("every", [1, 3])
def test_labels_travel_with_their_tokens_and_no_border_is_a_target(layout, every):
    samples, seen = samples_of(RAGGED, every), []
    for part in np.array_split(np.random.default_rng(0).permutation(len(samples)), 3):
        batch = samples.batch(part, layout)
        inputs = batch.input_ids.flatten()[batch.positions]
        assert isinstance(batch.labels, DenseLabels)
        seen += zip(inputs.tolist(), batch.targets.tolist(), batch.labels.log_probs[:, 3].tolist(), strict=True)
        assert len(inputs) == samples.tokens(part)
        assert len(set(batch.positions.tolist())) == len(inputs)
    # Equal triples would need equal labels: nothing is missing, doubled, or beside another's token.
    assert sorted(seen) == sorted(RowsInMemory(RAGGED, every).triples())


def llama(**changes: Any) -> torch.nn.Module:
    return build("llama", **changes)


def build(kind: str, **changes: Any) -> torch.nn.Module:
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **heads, **tokens, **changes}))


@pytest.fixture(scope="module")
def student() -> DistillModel:
    config = TrainingConfig.model_validate({"steps": 1, "loss": {"hard_weight": 0.3}})
    return DistillModel(llama().double(), config, uses_labels=True)


def step_of(model: DistillModel, samples: TextSamples, plan: StepPlan) -> tuple[float, torch.Tensor]:
    """Loss and gradient of step 0, summed over ranks and micro-batches under the one normaliser."""
    scale, total = 1 / samples.tokens(plan.step_indices(0)), 0.0
    model.zero_grad()
    for rank in range(plan.world):
        for indices in plan.micro_batches(0, rank):
            loss = model(samples.batch(indices, plan.layout))[0] * scale
            loss.backward()
            total += float(loss.detach())
    return total, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    ("layout", "world", "settings"),
    [
        ("padded", 3, {}),
        ("rows", 1, {}),
        ("rows", 2, {"micro_batch_size": 2}),
        ("rows", 3, {"micro_batch_tokens": 33}),
        ("rows", 11, {}),  # two ranks have nothing
        ("padded", 2, {"micro_batch_tokens": 20}),
    ],
)
def test_loss_and_gradient_are_the_same_in_any_layout_ranks_and_micro_batches(student, every, layout, world, settings):
    samples = samples_of(RAGGED, every)
    alone = TrainingConfig.model_validate({"steps": 1, "sequence_length": 16, "batch_size": 9, "micro_batch_size": 1})
    wanted = step_of(student, samples, StepPlan(alone, 1, 5, samples.lengths))
    config = alone.model_copy(update={"micro_batch_size": None, **settings})
    found = step_of(student, samples, StepPlan(config, world, 5, samples.lengths, layout))
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)
    assert torch.allclose(found[1], wanted[1], rtol=1e-5, atol=1e-9)
    assert float(wanted[1].abs().max()) > 1e-3


ARCHITECTURES = {
    "llama": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "mistral": {"sliding_window": 4},
    "gemma2": {"head_dim": 16, "sliding_window": 4},
    "gemma3_text": {"head_dim": 16, "sliding_window": 4},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "mixtral": {"num_local_experts": 4},
}


def logits_of(model: Any, samples: TextSamples, layout: Layout) -> torch.Tensor:
    batch = samples.batch(np.arange(len(samples)), layout)
    found = model(**batch.inputs(), use_cache=False).logits.flatten(0, 1)[batch.positions]
    return found[np.lexsort(batch.labels.log_probs[:, :3].numpy().T)]  # by label: layouts have orders of their own


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_logits_of_packed_sequences_are_those_of_the_sequences_alone(kind):
    model = build(kind, **ARCHITECTURES[kind]).eval()
    assert choose_layout(model, TrainingConfig(steps=1, packing=True), torch.device("cpu"))[0] == "rows"
    samples = samples_of([9, 6, 17, 5, 12])
    with torch.no_grad():
        packed, alone = (logits_of(model, samples, layout) for layout in ("rows", "padded"))
    assert torch.allclose(packed, alone, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("mamba", {"state_size": 8}, "one before it|position_ids"),
        ("bloom", {"n_head": 2, "n_layer": 2}, "one before it|position_ids"),
        ("opt", {"ffn_dim": 48, "word_embed_proj_dim": 32}, "one before it"),
    ],
)
def test_a_student_that_mixes_packed_sequences_is_found_out(kind, changes, reason):
    model, device = build(kind, **changes), torch.device("cpu")
    with pytest.raises(ConfigError, match=f"training.packing.*({reason})"):
        choose_layout(model, TrainingConfig(steps=1, packing=True), device)
    layout, why = choose_layout(model, TrainingConfig(steps=1), device)
    assert layout == "padded"
    assert "packed sequences" in why
    assert model.training


def test_a_position_that_does_not_restart_is_found_out(monkeypatch):
    model = build("gpt2", **ARCHITECTURES["gpt2"])
    decoder = model.get_decoder()
    places = torch.arange(64)[None]
    embed = decoder.wpe.forward
    monkeypatch.setattr(decoder.wpe, "forward", lambda ids: embed(places[:, : ids.shape[-1]]))
    assert "its place in the row" in choose_layout(model, TrainingConfig(steps=1), torch.device("cpu"))[1]


def test_packing_may_be_switched_off():
    found = choose_layout(llama(), TrainingConfig(steps=1, packing=False), torch.device("cpu"))
    assert found == ("padded", "training.packing is off")


def test_a_flash_attention_of_its_own_is_left_alone():
    model = llama()
    model.config._attn_implementation_internal = "flash_attention_2"
    assert "flash_attention_2" in choose_layout(model, TrainingConfig(steps=1), torch.device("cpu"))[1]


def by_borders(query, key, value, borders, same, longest, also, *, scale, window_size, enable_gqa):
    """What torch's kernel computes on a GPU, sequence by sequence."""
    assert (borders is same, longest) == (True, also)
    parts = []
    for start, stop in itertools.pairwise(borders.tolist()):
        assert stop - start <= longest
        rows = [states[start:stop].transpose(0, 1) for states in (query, key, value)]
        ago = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        seen = (ago >= 0) & ((ago <= window_size[0]) | (window_size[0] < 0))
        attended = torch.nn.functional.scaled_dot_product_attention(*rows, seen, scale=scale, enable_gqa=enable_gqa)
        parts.append(attended.transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma3_text", "mixtral"])
def test_attention_by_borders_gives_the_logits_of_the_sequences_alone(kind, monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", by_borders)
    samples = samples_of([9, 6, 17, 5, 12])
    model = build(kind, **ARCHITECTURES[kind]).eval()
    with torch.no_grad():
        alone = logits_of(model, samples, "padded")
    assert attention._use_borders(model, attention._alone(model)) == ""
    assert model.config._attn_implementation == varlen.NAME
    with torch.no_grad():
        packed = logits_of(model, samples, "flat")
    assert torch.allclose(packed, alone, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [("llama", {"attention_dropout": 0.1}, "dropout"), ("gemma2", ARCHITECTURES["gemma2"], "softcap")],
)
def test_what_the_kernel_of_borders_cannot_do_is_left_to_a_mask(kind, changes, reason, monkeypatch):
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", by_borders)
    model = build(kind, **changes)
    before = model.config._attn_implementation
    assert reason in attention._use_borders(model, attention._alone(model))
    assert model.config._attn_implementation == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_rank_without_work_puts_one_token_through(layout, student):
    batch = samples_of(RAGGED).batch(np.zeros(0, dtype=np.int64), layout)
    assert (batch.num_slots, len(batch.targets), batch.labels.num_labels) == (1, 0, 0)
    if layout != "flat":
        loss, metrics = student(batch)
        loss.backward()
        assert (float(loss.detach()), float(metrics["tokens"])) == (0, 0)


def test_long_documents_are_refused_unless_the_recipe_says_what_to_do():
    with pytest.raises(DataError, match=r"sequence_length \(16\): 1 of 11.* 30 tokens.*long_documents"):
        samples_of(RAGGED, rule="refuse")
    assert samples_of([17, 3], rule="refuse").notes == ()  # 16 inputs and the last target
    dropped = samples_of([40, *RAGGED], rule="drop")
    assert dropped.lengths.max() == 16
    assert len(dropped) == len(RAGGED) - 2
    assert "3 of 12" in dropped.notes[0]
    assert dropped.notes[0].endswith("dropped")
    cut = samples_of(RAGGED)
    assert cut.tokens(np.arange(len(cut))) == len(RowsInMemory(RAGGED).triples())
    assert "cut" in cut.notes[0]


def test_a_long_document_without_a_label_is_nobodys_loss():
    rows = RowsInMemory([5, 40], every=2)
    rows._places[1] = rows._places[1][:0]
    assert len(TextSamples(rows, 16, True, "refuse")) == 2


def test_a_dry_run_says_that_long_documents_would_be_refused():
    from cluster.estimate.text import refusal
    from kdcore.config import Recipe
    from kdcore.data.encoding import EncodedText

    tree = {"name": "x", "data": {"type": "python_stdlib"}, "training": {"steps": 1, "sequence_length": 16}}
    read = [EncodedText(np.arange(length), None) for length in (30, 12)]
    assert "1 of 2" in refusal(Recipe.model_validate(tree), read)
    tree["training"]["long_documents"] = "drop"
    assert refusal(Recipe.model_validate(tree), read) == ""


def test_the_longest_documents_are_looked_at_before_any_is_labelled(tmp_path):
    from cluster.estimate.lengths import refuse_long
    from kdcore.config import Recipe
    from tests.support import tiny_teacher

    tiny_teacher.write_documents(tmp_path / "docs", 6)
    tiny_teacher.write_teacher(tmp_path / "teacher")
    tree = tiny_teacher.recipe(tmp_path, "long")
    tree["student"] = {"type": "causal_lm", "path": str(tmp_path / "teacher")}
    tree["training"] = {"steps": 1, "sequence_length": 4}
    with pytest.raises(DataError, match=r"nothing was labelled.*sequence_length \(4\).*long_documents"):
        refuse_long(Recipe.model_validate(tree))
    tree["training"]["sequence_length"] = 100_000
    refuse_long(Recipe.model_validate(tree))
