"""Which samples make a step, and how ranks and micro-batches share them."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.config import TrainingConfig
from kdcore.data.order import TokenStream, epoch_order
from kdcore.training.packing import arrange
from kdcore.training.step_plan import StepPlan, deal

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=40).map(np.array)
SIZES = st.one_of(
    st.fixed_dictionaries({"batch_size": st.integers(1, 17)}),
    st.fixed_dictionaries({"tokens_per_step": st.integers(12, 60)}),
)
MICRO = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"micro_batch_size": st.integers(1, 5)}),
    st.fixed_dictionaries({"micro_batch_tokens": st.integers(12, 24)}),
)
LAYOUTS = st.sampled_from(["padded", "rows", "flat"])


def plan_of(lengths, world=1, layout="padded", seed=3, **training) -> StepPlan:
    config = TrainingConfig.model_validate({"epochs": 2, "sequence_length": 12, **training})
    return StepPlan(config, world, seed, lengths, layout)


@settings(max_examples=150, deadline=None)
@given(lengths=LENGTHS, world=st.integers(1, 5), size=SIZES, micro=MICRO, layout=LAYOUTS)
def test_every_world_and_micro_batch_deals_out_the_same_step(lengths, world, size, micro, layout):
    plan = plan_of(lengths, world, layout, **size, **micro)
    for step in range(3):
        parts = [plan.micro_batches(step, rank) for rank in range(world)]
        assert len(set(map(len, parts))) == 1
        assert len(parts[0]) == 1 or plan.accumulates
        dealt = np.concatenate([part for mine in parts for part in mine])
        assert sorted(dealt) == sorted(plan_of(lengths, **size).step_indices(step))
        for part in itertools.chain(*parts):
            if "micro_batch_size" in micro:
                assert len(part) <= micro["micro_batch_size"]
            if "micro_batch_tokens" in micro and len(part):
                assert arrange(lengths[part], layout, 12).num_slots <= micro["micro_batch_tokens"]


@settings(max_examples=50, deadline=None)
@given(lengths=LENGTHS, size=SIZES)
def test_an_epoch_has_every_sample_once_and_in_its_order(lengths, size):
    plan = plan_of(lengths, **size)
    steps = [plan.step_indices(step) for step in range(plan.steps)]
    assert all(len(step) for step in steps)
    seen = np.concatenate(steps)
    for epoch in range(2):
        here = seen[epoch * len(lengths) : (epoch + 1) * len(lengths)]
        assert here.tolist() == epoch_order(len(lengths), 3, epoch).tolist()
    assert len(seen) - 2 * len(lengths) < size.get("batch_size", 61)


@settings(max_examples=50, deadline=None)
@given(lengths=LENGTHS, size=st.integers(12, 60))
def test_a_step_of_tokens_has_that_many_up_to_a_sequence(lengths, size):
    stream = TokenStream(lengths, seed=1)
    for step in range(5):
        found = int(lengths[stream.samples(step * size, (step + 1) * size)].sum())
        assert abs(found - size) < lengths.max()


def test_steps_of_tokens_by_hand():
    lengths = np.array([5, 3, 4, 8])
    order = epoch_order(4, 0, 0).tolist()
    stream = TokenStream(lengths, seed=0)
    assert stream.samples(0, 20).tolist() == order
    first = int(lengths[order[0]])
    assert stream.samples(0, first).tolist() == order[:1]
    assert stream.samples(1, first + 1).tolist() == order[1:2]


@settings(max_examples=50, deadline=None)
@given(lengths=LENGTHS, world=st.integers(1, 6))
def test_ranks_get_as_many_samples_and_nearly_as_many_tokens(lengths, world):
    ranks = deal(lengths, world)
    counts = np.bincount(ranks, minlength=world)
    tokens = np.bincount(ranks, weights=lengths, minlength=world)
    assert counts.max() - counts.min() <= 1
    assert tokens.max() - tokens.min() <= lengths.max()


def test_ranks_of_a_large_step_differ_by_less_than_a_hundredth():
    lengths = np.random.default_rng(0).lognormal(5.5, 0.9, 2000).astype(np.int64) + 1
    tokens = np.bincount(deal(lengths, 8), weights=lengths)
    assert tokens.max() < 1.01 * tokens.mean()


def test_micro_batches_of_one_sequence_a_row_hold_like_lengths():
    lengths = np.tile(np.array([2, 12, 3, 11]), 8)
    plan = plan_of(lengths, batch_size=32, micro_batch_tokens=48)
    parts = plan.micro_batches(0, 0)
    slots = plan.slots(parts, "padded")
    assert slots < 1.05 * int(lengths.sum())


def test_a_corpus_of_millions_is_planned_without_a_loop_over_it(monkeypatch):
    """Counted, not timed: no array as long as the corpus becomes a list of Python."""
    lengths = np.random.default_rng(0).integers(1, 2048, 200_000)

    class Watched(np.ndarray):
        def tolist(self):
            assert self.size < 10_000
            return super().tolist()

        def __iter__(self):
            assert self.size < 10_000
            return super().__iter__()

    plan = plan_of(lengths.view(Watched), 4, "rows", tokens_per_step=65_536, sequence_length=2048)
    assert plan.steps == -(-2 * int(lengths.sum()) // 65_536)
    parts = plan.micro_batches(plan.steps - 2, 1)
    assert 0 < sum(map(len, parts)) < 100


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"batch_size": 4, "tokens_per_step": 64}, "exactly one of `batch_size` and `tokens_per_step`"),
        ({"micro_batch_size": 4, "micro_batch_tokens": 64}, "at most one of"),
        ({"tokens_per_step": 11}, "room for a sequence"),
        ({"micro_batch_tokens": 11}, "room for a sequence"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        plan_of(np.array([3]), **sizes)


def test_a_resolved_recipe_names_one_size_and_is_read_back():
    for size, found in (({}, 16), ({"tokens_per_step": 64}, None), ({"batch_size": 3}, 3)):
        config = TrainingConfig.model_validate({"steps": 1, "sequence_length": 12, **size})
        assert config.batch_size == found
        assert TrainingConfig.model_validate(config.model_dump()) == config
