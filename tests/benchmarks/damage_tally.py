"""What counts as caught, and how much of it was."""

from collections import Counter
from collections.abc import Callable, Sequence

from tests.benchmarks.damage_children import Bench, Damage, Found, Look, look
from tests.benchmarks.harness import progress

__all__ = ["Tally", "harmless", "refused", "reported", "told", "unmoved"]


def refused(found: Found, reference: str) -> bool:
    """Reading said so by a named error."""
    return found.reading == "refused"


def reported(found: Found, reference: str) -> bool:
    """Full verification said so, and whoever reads nevertheless gets a named error or no fewer rows than there are."""
    rows = reference.split()[0]
    return found.verification == "reported" and (found.reading == "refused" or found.reading.split()[0] == rows)


def told(found: Found, reference: str) -> bool:
    """Reading refused it; or verification reported it, and what was read is right."""
    return refused(found, reference) or (found.verification == "reported" and found.reading == reference)


def harmless(found: Found, reference: str) -> bool:
    """Refused, or read as if nothing had happened: what was edited carries no label and proves none."""
    return found.reading in ("refused", reference)


def unmoved(found: Found, reference: str) -> bool:
    """Read as if nothing had happened, and verified."""
    return found.reading == reference and found.verification == "ok"


Rule = Callable[[Found, str], bool]


class Tally:
    """Tries and outcomes by class."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.classes: dict[str, dict[str, int]] = {}
        self.uncaught: list[str] = []

    def run(self, name: str, damages: Sequence[Damage], rule: Rule, how: Look = look) -> dict[str, int]:
        """Try them all; what counts as caught is for `rule` to say."""
        found = self.bench.run(damages, how)
        caught = [rule(item, self.bench.reference) and not item.signal for item in found]
        self.uncaught += [
            f"{name}: {damage.what}: {item}" for damage, item, ok in zip(damages, found, caught, strict=True) if not ok
        ]
        counts = Counter(_outcome(item, self.bench.reference) for item in found)
        line = {"tried": len(found), "caught": sum(caught), **{key: counts[key] for key in sorted(counts)}}
        progress(f"{name}: {line}")
        known = self.classes.setdefault(name, {})
        for key, count in line.items():
            known[key] = known.get(key, 0) + count
        return line


def _outcome(found: Found, reference: str) -> str:
    if found.signal:
        return "signals"
    if found.reading.startswith("unnamed") or found.verification.startswith("unnamed"):
        return "unnamed_errors"
    if found.reading == "refused":
        return "refused_when_read"
    how = "read_right" if found.reading == reference else "read_wrong"
    return f"{how}_{'and_reported' if found.verification == 'reported' else 'unreported'}"
