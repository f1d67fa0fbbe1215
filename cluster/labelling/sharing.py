"""Several jobs on one store: how a job takes its units so that two meet at few, and what becomes of those others did.

No job tells another what it is at: a unit that has a receipt is not labelled again, and jobs that take units in orders
of their own are seldom at the same one.
"""

import random

from cluster.labelling.policy.state import State
from kdcore.store.layout import DATA
from kdcore.store.writer import Receipt

__all__ = ["is_of", "note_found", "take_apart"]


def take_apart(state: State, job: str) -> None:
    """Let a job take its units in an order of its own, before the first: large ones still first, within a factor of 2.

    At random, not from a place of its own: two jobs that go round in one order run side by side as soon as one has
    caught up. With R replicas elsewhere, the next of M units left is under way there with probability R / M at most, so
    that about R log(M / R) are labelled twice in all.
    """
    places = list(range(len(state.fresh)))
    random.Random(job).shuffle(places)
    place = dict(zip(state.fresh, places, strict=True))
    state.fresh.sort(key=lambda unit: (state.sizes[unit].bit_length(), place[unit]))


def note_found(state: State, unit: str) -> None:
    """A replica answered for `unit` with another job's receipt: it is done, as if another replica had been first.

    How long that answer took says nothing of how long units take, so that the policy must not learn from it.
    """
    state.finished += 1
    state.settle(unit)


def is_of(receipt: Receipt, job: str) -> bool:
    """Whether an attempt of this job wrote the shard, as its name says."""
    return receipt.shard.startswith(f"{DATA}/{receipt.unit}-{job}-")
