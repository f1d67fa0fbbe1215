"""What every benchmark shares: progress to stderr, and one JSON line last on stdout."""

import json
import os
import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent.parent
PACKAGES = ("kdcore", "torch", "ray", "deepspeed", "transformers", "datasets", "pyarrow", "numpy")


def progress(text: str) -> None:
    """Say how far the measurement is, on stderr."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def _cpu_name() -> str:
    """The processor's name, where Linux tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, str | int | float]:
    """What the figures were measured on; nothing that names a host or a user."""
    facts: dict[str, str | int | float] = {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    return facts


def versions() -> dict[str, str]:
    """Python and the packages that the figures depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def emit(name: str, headline: dict[str, float], command: list[str], **details: object) -> None:
    """Print the one JSON line: the headline figures first, then what they were measured with."""
    line = {
        "name": name,
        "headline": headline,
        **details,
        "machine": machine(),
        "versions": versions(),
        "command": " ".join(command),
    }
    print(json.dumps(line, allow_nan=False), flush=True)
