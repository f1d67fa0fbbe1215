"""The sizes of the house: no file over 500 lines, no function over 80."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGES = ("kdcore", "cluster", "jobs")
FILE_LINES = 500
FUNCTION_LINES = 80


def modules(repo: Path) -> list[Path]:
    return sorted(path for package in PACKAGES for path in (repo / package).rglob("*.py"))


def long_functions(path: Path, limit: int) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > limit:
                yield f"{path.name}:{node.lineno} {node.name} has {lines} lines"


def test_there_is_a_house(repo: Path) -> None:
    assert len(modules(repo)) > 10


def test_no_file_is_too_long(repo: Path) -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in modules(repo)}
    assert {str(path): lines for path, lines in sizes.items() if lines > FILE_LINES} == {}


def test_no_function_is_too_long(repo: Path) -> None:
    assert [found for path in modules(repo) for found in long_functions(path, FUNCTION_LINES)] == []


@pytest.mark.parametrize(("lines", "found"), [(80, 0), (81, 1)])
def test_the_measure_of_functions(lines: int, found: int, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("def f():\n" + "    x = 1\n" * (lines - 1))
    assert len(list(long_functions(path, FUNCTION_LINES))) == found
