"""Which replicas there should be: how many, which settles the codec, which is given up, which is let go."""

import heapq

from cluster.labelling.policy.moves import (
    Decision,
    Drain,
    Fail,
    GiveUp,
    Grow,
    Notice,
    Replace,
    Retry,
    Settle,
    Short,
    Shrink,
    Starved,
)
from cluster.labelling.policy.state import State
from kdcore.errors import ClusterError, KDError

__all__ = ["after_notice", "depart", "failed_start", "loading_limit", "resize", "restart", "settle", "tell_shortage"]

# An autoscaler sees so many replicas' demand at once; more than that would say nothing new, and cost the scheduler.
_PENDING = 32


def settle(state: State, now: float) -> list[Decision]:
    """Ask one replica after another for the codec until one has it; from then on, all that have loaded."""
    fleet, found = state.fleet, list[Decision]()
    while fleet.loaded and (fleet.settled or fleet.prober is None):
        replica = next(iter(fleet.loaded))
        del fleet.loaded[replica]
        fleet.loading[replica] = None
        loading_limit(state, replica, now)
        if not fleet.settled:
            fleet.prober = replica
        found.append(Settle(replica))
    return found


def loading_limit(state: State, replica: int, now: float) -> None:
    """A replica that loads, or settles the codec, has only so long."""
    state.fleet.limit(replica, now + state.rules.load_seconds)


def resize(state: State, now: float) -> list[Decision]:
    """More replicas while there are units for them; none that still wait for room when there are not."""
    fleet, found = state.fleet, list[Decision]()
    if fleet.used >= fleet.highest and (not fleet.asked or len(state.fresh) >= fleet.highest):
        return found
    spare = state.unclaimed() - fleet.coming - len(state.idle) if fleet.used else 1
    hopeless = bool(fleet.given_up) and not fleet.settled
    while spare > 0 and fleet.used < fleet.highest and len(fleet.asked) < _PENDING and not hopeless:
        found.append(Grow(fleet.add()))
        spare -= 1
    while spare < 0 and fleet.settled and fleet.asked and (last := next(reversed(fleet.asked))) >= fleet.lowest:
        fleet.release(last)
        found.append(Shrink(last, "no unit is left for it"))
        spare += 1
    return found


def tell_shortage(state: State, now: float) -> list[Decision]:
    """Say when there are fewer replicas than wanted for a while; end the run when there is none for too long."""
    fleet = state.fleet
    placed = len(fleet.loading) + len(fleet.loaded) + len(state.idle) + len(state.running)
    wanted = min(fleet.lowest, state.remaining)
    if not state.shortage.see(placed, wanted, now):
        return []
    seconds = state.shortage.starved(now)
    if seconds is not None:
        return [Starved(seconds)]
    return [Short(placed, wanted)] if state.shortage.take_short(now) else []


def restart(state: State, replica: int, reason: str) -> Decision:
    """Another in its place, at once; or, with many waiting for room already, later."""
    fleet = state.fleet
    fleet.forget(replica)
    if len(fleet.asked) < max(_PENDING, fleet.lowest):
        fleet.asked[replica] = None
        return Replace(replica, reason)
    fleet.release(replica)
    return Shrink(replica, reason)


def failed_start(
    state: State, replica: int, reason: str, error: Exception | None, now: float, wait: bool = True
) -> list[Decision]:
    """Try it again (after a wait, if `wait`); give it up after its attempts; end the job when no other is left."""
    fleet = state.fleet
    fleet.forget(replica)
    fleet.failed_starts[replica] = times = fleet.failed_starts.get(replica, 0) + 1
    if times < state.rules.max_attempts:
        fleet.restarting.add(replica)
        seconds = state.delay(f"replica {replica}", times) if wait else 0.0
        heapq.heappush(state.waiting, (now + seconds, "", replica))
        return []
    fleet.given_up.add(replica)
    if len(fleet.given_up) < fleet.used or (fleet.settled and fleet.used < fleet.highest):
        return [GiveUp(replica, reason)]
    return [Fail(error if isinstance(error, KDError) else _cannot_start(times, reason))]


def _cannot_start(times: int, reason: str) -> ClusterError:
    return ClusterError(
        f"no replica could start, the last after {times} tries in a row (labels.max_attempts): {reason.rstrip('.')}. "
        "Does the teacher fit into the memory of a node, times cluster.replicas?"
    )


def after_notice(state: State, notice: Notice, now: float) -> list[Decision]:
    """Let a replica finish its unit if that fits into the notice; else its unit goes to another at once."""
    fleet, replica = state.fleet, notice.replica
    until = None if notice.seconds is None else now + notice.seconds
    if replica in fleet.leaving:
        before = fleet.limit_of(replica)
        if until is not None and (before is None or until < before):
            fleet.limit(replica, until)
        return []
    run = state.running.get(replica)
    if run is None and replica not in state.idle and not fleet.knows(replica):
        return []
    if run is None or run.lost or not _fits(state, replica, notice.seconds, now):
        return depart(state, replica, notice.reason)
    fleet.leaving.add(replica)
    if until is not None:
        fleet.limit(replica, until)
    return [Drain(replica, run.unit, notice.reason)]


def _fits(state: State, replica: int, seconds: float | None, now: float) -> bool:
    run, rate = state.running[replica], state.rates.median
    return seconds is None or rate is None or run.started + rate * state.sizes[run.unit] - now <= seconds


def depart(state: State, replica: int, reason: str) -> list[Decision]:
    """Let a replica go: that is no failure of its unit, which another may have at once, nor of its start."""
    run = state.end(replica)
    state.idle.pop(replica, None)
    state.fleet.release(replica)
    found: list[Decision] = [Shrink(replica, reason)]
    if run is not None and not run.lost:
        state.orphans.add(run.unit)
        if not state.holders[run.unit]:
            state.put_back(run.unit)
        found.append(Retry(run.unit, replica, 0.0, reason))
    return found
