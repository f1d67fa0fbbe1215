"""A label store in a training loop of one's own: the dataset, and the loss of its batches."""

import inspect
import itertools
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, DistributedSampler, Subset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import kdcore
from kdcore import LabelledText, compose_losses, distillation_loss, with_distillation_loss
from kdcore.errors import ConfigError, DataError, IdentityMismatch, LabelError
from kdcore.losses.objective import METRICS
from kdcore.training.batches import TextBatch
from tests.support.own_scripts import tiny_student, write_store
from tests.support.training import TOKENIZER, image_recipe, write_labels


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TOKENIZER)


@pytest.fixture(scope="module")
def data(store, tokenizer) -> LabelledText:
    return LabelledText(store, tokenizer, sequence_length=32, long_documents="cut")


def facts(batch: TextBatch) -> list[tuple[Any, ...]]:
    """Token, next token, and the teacher's classes with their weights, of every label; sorted."""
    labels: Any = batch.labels
    inputs, found = batch.input_ids.flatten()[batch.positions].tolist(), []
    for number, (start, stop) in enumerate(itertools.pairwise(labels.offsets.tolist())):
        entries = sorted(zip(labels.ids[start:stop].tolist(), labels.weights[start:stop].tolist(), strict=True))
        found.append((inputs[number], int(batch.targets[number]), *entries))
    return sorted(found)


def facts_of(batches) -> list[tuple[Any, ...]]:
    return sorted(itertools.chain.from_iterable(map(facts, batches)))


def test_the_public_names_are_these():
    assert sorted(kdcore.__all__) == [
        "LabelledText",
        "Recipe",
        "__version__",
        "compose_losses",
        "distillation_loss",
        "distillation_loss_from_hidden",
        "load_recipe",
        "load_student",
        "open_mix",
        "open_store",
        "soft_target_loss",
        "verify_store",
        "with_distillation_loss",
    ]
    arguments = {
        LabelledText: ["store", "tokenizer", "sequence_length", "long_documents", "packing_for"],
        distillation_loss: ["model", "batch", "num_tokens", "settings"],
        with_distillation_loss: ["model", "settings"],
        compose_losses: ["terms", "student", "teacher", "example_pixels", "num_samples"],
    }
    for public, wanted in arguments.items():
        assert list(inspect.signature(public).parameters) == wanted
    members = set(dir(LabelledText)) - set(dir(torch.utils.data.Dataset))
    assert {name for name in members if not name.startswith("_")} == {"collate", "collate_for_trainer", "lengths"}


def test_a_sequence_holds_the_tokens_and_labels_of_its_row(data):
    first = data[0]
    row = int(np.flatnonzero(data.store.num_tokens_per_row() > 1)[0])
    tokens = data.store.tokens(row)[:33]
    assert first.input_ids.tolist() == tokens[:-1].tolist()
    assert first.targets.tolist() == tokens[1:].tolist()
    assert first.positions.tolist() == list(range(len(tokens) - 1))
    assert first.labels.num_labels == len(tokens) - 1
    assert data[-1].index == len(data) - 1
    with pytest.raises(IndexError):
        data[len(data)]


def test_batches_hold_what_their_sequences_hold_alone(data):
    together = data.collate([data[number] for number in (3, 0, 5)])
    assert facts(together) == facts_of([data[3].batch, data[0].batch, data[5].batch])
    assert together.num_tokens == len(together.targets) == len(together.positions)
    assert together.input_ids.shape == (3, max(data.lengths[[3, 0, 5]]))


def test_a_copy_in_another_process_gives_the_same_batches(data):
    copy, collate = pickle.loads(pickle.dumps((data, data.collate)))  # noqa: S301  what a spawned worker gets
    ours, theirs = DataLoader(copy, 5, collate_fn=collate), DataLoader(data, 5, collate_fn=data.collate)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.input_ids, other.input_ids)
        assert facts(one) == facts(other)


def test_shuffling_and_ranks_lose_nothing(data):
    everything = facts_of(DataLoader(data, 4, collate_fn=data.collate))
    assert facts_of(DataLoader(data, 3, shuffle=True, collate_fn=data.collate)) == everything
    even = Subset(data, range(len(data) // 2 * 2))
    ranks = [DistributedSampler(even, num_replicas=2, rank=rank, seed=4) for rank in range(2)]
    dealt = [DataLoader(even, 2, sampler=sampler, collate_fn=data.collate) for sampler in ranks]
    assert facts_of(itertools.chain(*dealt)) == facts_of(DataLoader(even, 4, collate_fn=data.collate))


def test_sequences_of_two_stores_share_no_batch(data, store, tokenizer):
    other = LabelledText(store, tokenizer, 32, "cut")
    mixed = ConcatDataset([data, other])
    with pytest.raises(ConfigError, match="kd store merge"):
        data.collate([mixed[0], mixed[len(data)]])


def test_a_batch_moves_as_one(data):
    batch = data.collate([data[0], data[1]])
    moved = batch.to(torch.device("meta"), non_blocking=True)
    assert moved.input_ids.is_meta
    assert moved.labels.weights.is_meta
    assert moved.num_tokens == batch.num_tokens
    assert not batch.input_ids.is_meta


def test_another_tokenizer_than_the_teachers_is_refused(store):
    other = AutoTokenizer.from_pretrained(TOKENIZER)
    other.add_special_tokens({"additional_special_tokens": ["<|other|>"]})
    with pytest.raises(IdentityMismatch, match=r"share a tokenizer.*type: span"):
        LabelledText(store, other)
    assert len(LabelledText(store, None, 32, "cut")) > 0


def test_labels_of_images_are_refused(tmp_path):
    recipe = image_recipe(tmp_path, "images")
    write_labels(recipe)
    with pytest.raises(ConfigError, match=r"labels of images.*soft_target_loss"):
        LabelledText(recipe.store_path, None)


def test_long_documents_are_cut_only_when_asked(store, tokenizer):
    with pytest.raises(DataError, match="long_documents"):
        LabelledText(store, tokenizer, 32)
    assert "are cut" in LabelledText(store, tokenizer, 32, "cut").notes[0]


def test_the_mean_loss_is_the_decoder_head_and_loss_of_the_trainer(data):
    model, batch = tiny_student(), data.collate([data[0], data[1], data[2]])
    loss, metrics = distillation_loss(model, batch, hard_weight=0.25)
    hidden = model.model(input_ids=batch.input_ids).last_hidden_state.flatten(0, 1)[batch.positions]
    total, sums = kdcore.distillation_loss_from_hidden(
        hidden, model.lm_head.weight, batch.labels, batch.targets, hard_weight=0.25
    )
    assert loss.item() == pytest.approx(total.item() / batch.num_tokens, rel=1e-5)
    assert set(metrics) == set(METRICS) - {"tokens"}
    assert metrics["kl"].item() == pytest.approx(sums["kl"].item() / batch.num_tokens, rel=1e-5)
    assert not metrics["kl"].requires_grad


def gradient(model, losses) -> torch.Tensor:
    model.zero_grad()
    for loss in losses:
        loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def test_micro_batches_that_know_the_tokens_of_the_step_have_its_gradient(data):
    model, sequences = tiny_student(), [data[number] for number in range(6)]
    whole = data.collate(sequences)
    parts = [data.collate(sequences[:1]), data.collate(sequences[1:5]), data.collate(sequences[5:])]
    wanted = gradient(model, [distillation_loss(model, whole)[0]])
    for tokens in (whole.num_tokens, torch.tensor(whole.num_tokens)):
        found = gradient(model, (distillation_loss(model, part, num_tokens=tokens)[0] for part in parts))
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-7)
    means = gradient(model, (distillation_loss(model, part)[0] / 3 for part in parts))
    assert not torch.allclose(means, wanted, rtol=1e-2, atol=1e-5)


def test_packed_batches_have_the_gradient_of_padded_ones(data, store, tokenizer):
    model = tiny_student()
    packed = LabelledText(store, tokenizer, 32, "cut", packing_for=model)
    shortest = np.argsort(data.lengths)[:8].tolist()
    ours, theirs = (one.collate([one[number] for number in shortest]) for one in (packed, data))
    assert len(ours.input_ids) < len(theirs.input_ids)
    assert facts(ours) == facts(theirs)
    found, wanted = (gradient(model, [distillation_loss(model, batch)[0]]) for batch in (ours, theirs))
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-7)


def test_a_model_that_mixes_packed_sequences_is_refused(store, tokenizer):
    sizes = {"vocab_size": 50, "hidden_size": 8, "num_hidden_layers": 1, "state_size": 4}
    recurrent = AutoModelForCausalLM.from_config(AutoConfig.for_model("mamba", **sizes))
    with pytest.raises(ConfigError, match=r"training\.packing"):
        LabelledText(store, tokenizer, 32, "cut", packing_for=recurrent)


def test_a_student_with_fewer_classes_than_the_labels_is_refused_before_it_runs(data):
    student = tiny_student(classes=100)
    with pytest.raises(LabelError, match="do not fit a student with 100 outputs"):
        distillation_loss(student, data[0].batch)


def test_settings_are_those_of_the_loss_in_a_recipe(data):
    with pytest.raises(ConfigError, match=r"training\.loss.*hard_weight.*hardweight"):
        distillation_loss(tiny_student(), data[0].batch, hardweight=0.1)
    with pytest.raises(ConfigError, match=r"hard_weight: .*less than or equal to 1"):
        with_distillation_loss(tiny_student(), hard_weight=2)
    with pytest.raises(ConfigError, match="biased gradient"):
        distillation_loss(tiny_student(), data[0].batch, type="reverse_kl")


def test_a_wrapped_model_is_told_where_the_loss_belongs(data):
    with pytest.raises(ConfigError, match=r"DataParallel.*with_distillation_loss"):
        distillation_loss(torch.nn.DataParallel(tiny_student()), data[0].batch)


def test_a_compiled_model_is_told_too_as_its_decoder_would_run_as_ever(data):
    for use in (lambda model: distillation_loss(model, data[0].batch), with_distillation_loss):
        compiled: Any = torch.compile(tiny_student(), backend="eager")
        with pytest.raises(ConfigError, match=r"OptimizedModule.*with_distillation_loss"):
            use(compiled)


def test_a_model_with_the_loss_in_its_forward_pass_is_still_the_model(data, tmp_path):
    plain, batch = tiny_student(), data.collate([data[0], data[1]])
    model = with_distillation_loss(tiny_student(), hard_weight=0.25)
    loss, metrics = distillation_loss(plain, batch, hard_weight=0.25)
    found = model(batch=batch, labels=batch.targets)
    assert found["loss"].item() == pytest.approx(loss.item(), rel=1e-6)
    assert set(found) == {"loss", *metrics}
    assert model(batch=batch, num_items_in_batch=2 * batch.num_tokens)["loss"].item() == pytest.approx(loss.item() / 2)
    assert isinstance(model, type(plain))
    prompt = batch.input_ids[:1, :4]
    assert torch.equal(model(input_ids=prompt).logits, plain(input_ids=prompt).logits)
    options = {"max_new_tokens": 3, "do_sample": False, "attention_mask": torch.ones_like(prompt), "pad_token_id": 0}
    assert torch.equal(model.generate(prompt, **options), plain.generate(prompt, **options))
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again) is type(plain)
    assert torch.equal(again.lm_head.weight, plain.lm_head.weight)


def test_wrappers_see_the_forward_pass(data):
    batch = data.collate([data[0], data[1]])
    model = with_distillation_loss(tiny_student())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MASTER_ADDR", "127.0.0.1")
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
        try:
            wrapped = torch.nn.parallel.DistributedDataParallel(model)
            found = gradient(model, [wrapped(batch=batch)["loss"]])
        finally:
            torch.distributed.destroy_process_group()
    plain = tiny_student()
    assert torch.allclose(found, gradient(plain, [distillation_loss(plain, batch)[0]]), rtol=1e-4, atol=1e-8)


def test_a_forked_worker_makes_a_storage_client_of_its_own(tmp_path):
    from kdcore.store.storage.remote import RemotePlace

    place = RemotePlace("memory", f"{tmp_path.name}/store")
    place.put("a", b"content")
    before = place._fs
    place._made = (os.getpid() + 1, before)  # as a fork leaves it
    assert place.read("a") == b"content"
    assert place._made[0] == os.getpid()
