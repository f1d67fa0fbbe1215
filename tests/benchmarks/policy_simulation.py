"""The labelling policy over ten thousand simulated replicas and a million units: how even the end is, what it costs.

Usage: python -m tests.benchmarks.policy_simulation [--replicas N] [--units N] [--seed N]

Once with replicas that stay, of which one dies every so often (once a second at full size); the bound is the total work
over the total capacity less the restarts, or the largest unit if that takes longer. Once with nodes that come and go,
with and without notice; the bound is when the places that were there, less one loading each, could have done the work,
or the last unit whose only copy a node took with it, labelled anew (`capacity_s` is without that).

A decision is one event told and the question when to be woken, timed apart from the simulator; `copied_share` is the
work given out a second time beside a replica that was at it, of all work.
"""

import argparse
import sys
import time
import tracemalloc

from cluster.labelling.policy.decide import decide
from cluster.labelling.policy.moves import ReplicaReady
from cluster.labelling.policy.state import Rules, State
from tests.benchmarks.harness import emit, progress
from tests.benchmarks.simulated_cluster import SMALLEST, Churn, Simulation


def measure(simulation: Simulation) -> dict[str, float]:
    """One run's figures."""
    began = time.process_time()
    makespan = simulation.run()
    whole, policy, bound = time.process_time() - began, simulation.policy_seconds(), simulation.bound()
    return {
        "replicas": len(simulation.speed),
        "units": len(simulation.sizes),
        "makespan_ratio": round(makespan / bound, 4),
        "makespan_s": round(makespan, 1),
        "bound_s": round(bound, 1),
        "microseconds_per_decision": round(1e6 * policy / len(simulation.log), 2),
        "simulator_share": round(1 - policy / whole, 2),
        "events": len(simulation.log),
        "deaths": simulation.deaths,
        "backups": simulation.backups,
        "copied_share": round(simulation.copied_bytes / sum(simulation.sizes.values()), 5),
    }


def state_megabytes(replicas: int, units: int) -> float:
    """Memory of the policy's state with every replica at work, without the units' names and sizes."""
    sizes = {f"unit-{number:07d}": SMALLEST + number for number in range(units)}
    names = list(sizes)
    tracemalloc.start()
    state = State.of(names, Rules(lowest=replicas, highest=replicas), sizes)
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
        found[name] = measure(Simulation(replicas, units, replicas / 10_000, chosen.seed))
        found[name]["state_mb"] = state_megabytes(replicas, units)
        progress(f"{name}: {found[name]}")
        churn = Churn(replicas, units, chosen.seed)
        found[f"churn_{name}"] = measure(churn)
        found[f"churn_{name}"] |= {
            "notices": churn.notices,
            "capacity_s": round(churn.capacity, 1),
            "capacity_ratio": round(churn.clock / churn.capacity, 4),
        }
        progress(f"churn, {name}: {found[f'churn_{name}']}")
    full, churned = found["full"], found["churn_full"]
    headline = {key: full[key] for key in ("makespan_ratio", "microseconds_per_decision", "state_mb")}
    headline |= {
        f"churn_{key}": churned[key] for key in ("capacity_ratio", "microseconds_per_decision", "copied_share")
    }
    emit("policy_simulation", headline, ["python", "-m", "tests.benchmarks.policy_simulation", *sys.argv[1:]], **found)


if __name__ == "__main__":
    main()
