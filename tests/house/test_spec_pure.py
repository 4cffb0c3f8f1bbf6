"""The law imports nothing that could bring the outside world in."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SPEC = Path(__file__).parents[2] / "src" / "penstock" / "spec"
ALLOWED = {
    "__future__",
    "abc",
    "base64",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "json",
    "re",
    "struct",
    "typing",
}


def strangers(source: str) -> list[str]:
    """The imports of a source text that the law may not have."""
    return [name for name in _imports(source) if not _is_allowed(name)]


def _imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # A relative import has no module name of its own; it is refused as it stands.
            yield "." * node.level + (node.module or "")


def _is_allowed(name: str) -> bool:
    return name.partition(".")[0] in ALLOWED or f"{name}.".startswith("penstock.spec.")


def test_the_law_stands_on_the_standard_library_alone() -> None:
    files = sorted(SPEC.rglob("*.py"))
    found = {file.name: strangers(file.read_text()) for file in files}
    assert files
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "import time",
        "from random import Random",
        "import asyncio",
        "import numpy as np",
        "from penstock.kit import ports",
        "from penstock import kit",
        "from penstock.specious import x",
        "from . import canon",
        "def f():\n    import socket",
    ],
)
def test_an_import_of_the_outside_is_found(line: str) -> None:
    assert strangers(line)


@pytest.mark.parametrize(
    "line",
    ["import json", "from collections.abc import Mapping", "from penstock.spec.canon import parse"],
)
def test_an_import_of_the_law_itself_is_allowed(line: str) -> None:
    assert strangers(line) == []
