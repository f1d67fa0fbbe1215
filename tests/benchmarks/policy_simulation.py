"""The labelling policy over ten thousand simulated replicas and a million units: how even the end is, what it costs.

Usage: python -m tests.benchmarks.policy_simulation [--replicas N] [--units N] [--seed N]

The clock is simulated. Costs are Pareto (capped), one replica of a hundred is ten times slow without anyone having said
so, and a replica dies every so often (once a second at full size): its work is lost and it starts anew. The bound is
the total work over the total capacity less the restarts, or the largest unit if that takes longer.
"""

import argparse
import heapq
import itertools
import random
import sys
import time
import tracemalloc

from cluster.labelling.policy import (
    Assign,
    Event,
    Fail,
    Finish,
    Replace,
    ReplicaDied,
    ReplicaReady,
    State,
    Tick,
    UnitDone,
    decide,
)
from tests.benchmarks.harness import emit, progress

SLOW, SLOWNESS = 0.01, 10.0
MEAN_SHAPE, SMALLEST, LARGEST = 1.5, 100_000, 10_000_000
BYTES_PER_SECOND = 20_000
RESTART_SECONDS = 30.0


class Simulation:
    """Events in the order of the simulated clock, over the real policy."""

    def __init__(self, replicas: int, units: int, failures_per_second: float, seed: int) -> None:
        self.rng = random.Random(seed)
        self.failures = failures_per_second
        self.sizes = {
            f"unit-{number:07d}": min(LARGEST, int(SMALLEST * self.rng.paretovariate(MEAN_SHAPE)))
            for number in range(units)
        }
        self.speed = [BYTES_PER_SECOND / (SLOWNESS if self.rng.random() < SLOW else 1) for _ in range(replicas)]
        self.alive: list[int] = [0] * replicas  # which process stands behind the number; the dead do not answer
        self.serial = itertools.count()
        self.clock, self.decisions, self.seconds, self.backups, self.deaths = 0.0, 0, 0.0, 0, 0
        self.queue: list[tuple[float, int, int, int, str]] = []

    def bound(self) -> float:
        """No schedule ends sooner: capacity is lost to restarts only."""
        lost = self.failures * RESTART_SECONDS / len(self.speed)
        return max(
            sum(self.sizes.values()) / (sum(self.speed) * (1 - lost)), max(self.sizes.values()) / BYTES_PER_SECOND
        )

    def run(self) -> float:
        """Simulated seconds until all is done."""
        state = State.of(list(self.sizes), 1_000, self.sizes, len(self.speed))
        for replica in range(len(self.speed)):
            self._push(0.0, replica, "ready")
        self._push(self.rng.expovariate(self.failures), -1, "death")
        while True:
            wake = state.wake_at()
            if wake is not None and wake < self.queue[0][0]:
                self.clock = max(self.clock, wake)
                event: Event | None = Tick()
            else:
                event = self._next()
            if event is not None and self._decide(state, event):
                return self.clock

    def _next(self) -> Event | None:
        self.clock, _, replica, process, kind = heapq.heappop(self.queue)
        if kind == "death":
            self._push(self.clock + self.rng.expovariate(self.failures), -1, "death")
            victim = self.rng.randrange(len(self.speed))
            self.alive[victim] += 1
            self.deaths += 1
            return ReplicaDied(victim, "killed by the simulation")
        if process != self.alive[replica]:
            return None
        return ReplicaReady(replica) if kind == "ready" else UnitDone(replica)

    def _decide(self, state: State, event: Event) -> bool:
        began = time.perf_counter()
        decisions = decide(state, event, self.clock)
        self.seconds += time.perf_counter() - began
        self.decisions += 1
        for decision in decisions:
            match decision:
                case Assign(replica, unit):
                    self.backups += decision.backup
                    self._push(self.clock + self.sizes[unit] / self.speed[replica], replica, "done")
                case Replace(replica):
                    self.alive[replica] += 1
                    self._push(self.clock + RESTART_SECONDS, replica, "ready")
                case Fail(error):
                    raise error
                case Finish():
                    return True
                case _:
                    pass
        return False

    def _push(self, when: float, replica: int, kind: str) -> None:
        process = self.alive[replica] if replica >= 0 else 0
        heapq.heappush(self.queue, (when, next(self.serial), replica, process, kind))


def measure(replicas: int, units: int, failures: float, seed: int) -> dict[str, float]:
    """One run's figures."""
    simulation = Simulation(replicas, units, failures, seed)
    makespan, bound = simulation.run(), simulation.bound()
    return {
        "replicas": replicas,
        "units": units,
        "makespan_ratio": round(makespan / bound, 4),
        "makespan_s": round(makespan, 1),
        "bound_s": round(bound, 1),
        "microseconds_per_decision": round(1e6 * simulation.seconds / simulation.decisions, 2),
        "events": simulation.decisions,
        "deaths": simulation.deaths,
        "backups": simulation.backups,
    }


def state_megabytes(replicas: int, units: int) -> float:
    """Memory of the policy's state with every replica at work, without the units' names and sizes."""
    sizes = {f"unit-{number:07d}": SMALLEST + number for number in range(units)}
    names = list(sizes)
    tracemalloc.start()
    state = State.of(names, 3, sizes, replicas)
    for replica in range(replicas):
        decide(state, ReplicaReady(replica), float(replica))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return round(peak / 2**20, 1)


def main() -> None:
    """Measure at a tenth of the size, then in full."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicas", type=int, default=10_000)
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for name, part in (("tenth", 10), ("full", 1)):
        replicas, units = chosen.replicas // part, chosen.units // part
        found[name] = measure(replicas, units, replicas / 10_000, chosen.seed)
        found[name]["state_mb"] = state_megabytes(replicas, units)
        progress(f"{name}: {found[name]}")
    full = found["full"]
    headline = {key: full[key] for key in ("makespan_ratio", "microseconds_per_decision", "state_mb")}
    emit("policy_simulation", headline, ["python", "-m", "tests.benchmarks.policy_simulation", *sys.argv[1:]], **found)


if __name__ == "__main__":
    main()
