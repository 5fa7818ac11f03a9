"""What decides trades is pure: it reads no clock, file or network."""

import ast
from pathlib import Path

import pytest

import manager.trading

ROOT = Path(manager.trading.__file__).parent
#: `cycle` reads the time for its figures, and the registry reads the entry points of packages.
IMPURE = {"cycle", "registry"}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path.stem not in IMPURE)
ALLOWED = {
    "base64", "bisect", "collections", "collections.abc", "dataclasses", "datetime", "decimal", "enum",
    "fractions", "functools", "hashlib", "html", "itertools", "json", "math", "traceback", "typing", "uuid",
}  # fmt: skip
OURS = ("manager.trading", "manager.gateways.base", "manager.config", "manager.market.", "manager.states")
#: Names that read the time, or files of this machine.
REFUSED = {"now", "utcnow", "today", "open", "time_ns", "monotonic", "getenv", "environ", "uuid4", "random"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_and_calls_only_pure_code(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert all(name in ALLOWED or name.startswith(OURS) for name in names), names
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert called not in REFUSED, f"{path.name}:{node.lineno} calls {called}"


def test_the_check_sees_the_modules() -> None:
    assert {path.stem for path in MODULES} >= {"sizing", "conversion", "orderids", "numbers"}
