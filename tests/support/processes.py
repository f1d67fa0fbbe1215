"""Processes that Ray started below another one."""

from pathlib import Path


def actors_of(driver: int, kind: str = "TeacherActor") -> list[int]:
    """Process ids of the actors of class `kind` below `driver`; Ray names its workers after what they run."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            names[int(entry.name)] = (entry / "cmdline").read_text()
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])

    def below(process: int) -> bool:
        while process in parents and process != driver:
            process = parents[process]
        return process == driver

    return [process for process, name in names.items() if f"ray::{kind}" in name and below(process)]


def runs(process: int, kind: str = "TeacherActor") -> bool:
    """Whether `process` is an actor of class `kind`, and alive."""
    try:
        return f"ray::{kind}" in Path(f"/proc/{process}/cmdline").read_text()
    except OSError:
        return False
