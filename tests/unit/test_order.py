import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcore.data.chunks import Chunk, make_chunks
from kdcore.data.order import epoch_order, sample_index
from kdcore.errors import ConfigError, DataError


@given(num=st.integers(1, 200), seed=st.integers(-5, 2**63), epoch=st.integers(0, 50))
def test_an_epoch_is_a_permutation(num, seed, epoch):
    order = epoch_order(num, seed, epoch)
    assert sorted(order) == list(range(num))
    assert (order == epoch_order(num, seed, epoch)).all()


def test_order_is_fixed_for_good():
    # Literal values: a resumed run, on another machine or numpy, must see the same order.
    assert epoch_order(8, 0, 0).tolist() == [4, 0, 1, 7, 6, 2, 5, 3]


def test_seed_and_epoch_change_the_order():
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_first_places_are_even():
    first = np.bincount([epoch_order(10, seed, 0)[0] for seed in range(2000)], minlength=10)
    assert first.min() > 140  # 200 expected, standard deviation 13
    assert first.max() < 260


@settings(max_examples=50)
@given(num=st.integers(1, 40), batch=st.integers(1, 17), seed=st.integers(0, 9))
def test_steps_walk_through_epochs_without_a_gap(num, batch, seed):
    steps = 3 * num // batch + 1
    seen = np.concatenate([sample_index(seed, step, batch, num) for step in range(steps)])
    for epoch in range(len(seen) // num):
        assert seen[epoch * num : (epoch + 1) * num].tolist() == epoch_order(num, seed, epoch).tolist()


def test_batch_size_does_not_change_the_order():
    small = np.concatenate([sample_index(3, step, 4, 10) for step in range(15)])
    large = np.concatenate([sample_index(3, step, 20, 10) for step in range(3)])
    assert (small == large).all()


def test_no_samples_is_an_error():
    with pytest.raises(DataError):
        sample_index(0, 0, 4, 0)


@given(rows=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=12), length=st.integers(1, 16))
def test_chunks_cover_every_label_of_every_occurrence(rows, length):
    tokens = np.array([row[0] for row in rows], dtype=np.int64)
    times = np.array([row[1] for row in rows], dtype=np.int64)
    chunks = make_chunks(tokens, times, length)
    counts = [np.zeros(max(count - 1, 0), dtype=int) for count in tokens]
    for row, start, stop, first, last in (chunks[number] for number in range(len(chunks))):
        assert (first, last) == (start, stop)
        assert 0 < stop - start <= length
        assert stop <= tokens[row] - 1
        counts[row][start:stop] += 1
    for count, occurrence in zip(counts, times, strict=True):
        assert (count == occurrence).all()
    assert chunks.num_labels == sum(int(c.sum()) for c in counts)


def test_chunks_by_hand():
    chunks = make_chunks(np.array([6, 1, 3]), np.array([2, 5, 1]), 3)
    assert [chunks[n] for n in range(len(chunks))] == [
        Chunk(0, 0, 3, 0, 3),
        Chunk(0, 3, 5, 3, 5),
        Chunk(0, 0, 3, 0, 3),
        Chunk(0, 3, 5, 3, 5),
        Chunk(2, 0, 2, 0, 2),
    ]
    with pytest.raises(ConfigError):
        make_chunks(np.array([3]), np.array([1]), 0)
