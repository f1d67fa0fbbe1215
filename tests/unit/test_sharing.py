"""Jobs that take units in orders of their own, each looking for a receipt first: how much is labelled twice."""

import math
import random

import pytest

from cluster.labelling.controller import is_of
from cluster.labelling.policy.decide import decide
from cluster.labelling.policy.moves import Finish, ReplicaReady, Shared, UnitDone
from cluster.labelling.policy.state import State
from kdcore.store import Receipt

SIZES = {f"unit-{number:06d}": size for number, size in enumerate(random.Random(0).choices(range(600, 1000), k=600))}


def order(job: str | None, sizes: dict[str, int] = SIZES) -> list[str]:
    """As a job takes them; None began the store."""
    state = State.of(list(sizes), sizes=sizes)
    if job is not None:
        assert decide(state, Shared(job)) == []
    return [state.take() for _ in sizes]


def computed(orders: list[list[str]], replicas: int) -> int:
    """Attempts of jobs in lockstep: in a step, each job takes `replicas` units that had no receipt when it began."""
    done: set[str] = set()
    lefts = [list(reversed(units)) for units in orders]
    total = 0
    while any(lefts):
        taken: list[str] = []
        for left in lefts:
            ours: list[str] = []
            while left and len(ours) < replicas:
                unit = left.pop()
                if unit not in done:
                    ours.append(unit)
            taken += ours
        total += len(taken)
        done.update(taken)
    assert done == set(SIZES)
    return total


@pytest.mark.parametrize(("jobs", "replicas"), [(2, 1), (2, 4), (4, 2)])
def test_jobs_at_once_do_little_twice(jobs: int, replicas: int) -> None:
    apart = [order(None), *(order(f"job{number}") for number in range(1, jobs))]
    others = replicas * (jobs - 1)
    assert computed(apart, replicas) <= len(SIZES) + 3 * others * math.log(len(SIZES))
    assert computed([order(None)] * jobs, replicas) == jobs * len(SIZES)  # and all of it in the same order


def test_large_units_are_still_first() -> None:
    sizes = {f"unit-{number:06d}": 2 ** (number % 5) * 100 for number in range(50)}
    taken = [sizes[unit] for unit in order("job", sizes)]
    assert taken == sorted(sizes.values(), reverse=True)


def test_a_shard_says_whose_it_is() -> None:
    receipt = Receipt("unit-1", "data/unit-1-abcd0123-0-00000000.arrow", 1, 1, 1, "d", "u")
    assert is_of(receipt, "abcd0123")
    assert not is_of(receipt, "abcd012")
    assert not is_of(receipt, "0123abcd")


def test_what_was_found_is_done_and_tells_no_speed() -> None:
    state = State.of(["a", "b", "c", "d", "e"])
    decide(state, ReplicaReady(0))
    for second in range(1, 4):
        decide(state, UnitDone(0), 100.0 * second)
    median = state.rates.median
    decide(state, UnitDone(0, found=True), 300.0)
    assert (state.finished, state.remaining) == (4, 1)
    assert state.rates.median == median == 100.0
    assert decide(state, UnitDone(0), 301.0) == [Finish()]
