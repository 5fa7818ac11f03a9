"""The package `market` is pure: it reads no clock, file or network."""

import ast
from pathlib import Path

import pytest

import manager.market

MODULES = sorted(Path(manager.market.__file__).parent.glob("*.py"))
ALLOWED = {
    "bisect", "collections.abc", "cronsim", "dataclasses", "datetime", "difflib", "enum", "functools",
    "hashlib",
    "importlib.resources", "re", "typing", "tzdata", "zoneinfo",
}  # fmt: skip
#: Names that read the time, or files of this machine.
REFUSED = {"now", "utcnow", "today", "open", "time_ns", "monotonic", "getenv", "environ"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_and_calls_only_pure_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert all(name in ALLOWED or name.startswith("manager.market.") for name in names), names
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            # Only the rules of time zones are read, which are a part of the program.
            reads_zone = path.stem == "clocks" and called == "open"
            assert called not in REFUSED or reads_zone, f"{path.name}:{node.lineno} calls {called}"


def test_the_check_sees_the_modules() -> None:
    assert {path.stem for path in MODULES} >= {"clocks", "windows", "sessions", "rollover", "calendars"}
