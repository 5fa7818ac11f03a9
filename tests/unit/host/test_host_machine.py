"""The amount of memory: the machine's, or the limit of its container."""

from pathlib import Path

import psutil
import pytest

from manager.system import machine


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [
        ("536870912\n", "134217728\n", (512, 384)),
        ("536870912", "999999999999", (512, 0)),
        ("max\n", "134217728\n", None),
        (str(1 << 62), "1", None),
        (None, None, None),
    ],
)
def test_a_containers_limit_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str | None, used: str | None, expected: object
) -> None:
    files = tmp_path / "limit", tmp_path / "used"
    for file, text in zip(files, (limit, used), strict=True):
        if text is not None:
            file.write_text(text)
    monkeypatch.setattr(machine, "_LIMITS", (files,))
    found = machine.memory_mb()
    if expected is None:
        assert found[0] == psutil.virtual_memory().total >> 20
    else:
        assert found == expected
