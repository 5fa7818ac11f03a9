from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from manager.models import ValidationResult, WorkerInfo
from manager.states import WorkerLifecycleStatus as S
from manager.terminal.list_text import seconds_text
from manager.terminal.tables import change_lines, validation_lines, worker_table

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def info(
    account_id: str = "account-001", status: S = S.RUNNING, error: str | None = None, **metadata: Any
) -> WorkerInfo:
    data = {
        "host": "alpha",
        "pid": 4711,
        "health": "healthy",
        "equity": "10000.00",
        "currency": "USD",
        "open_positions": 2,
        "heartbeat_age_seconds": 0.4,
    }
    return WorkerInfo(
        worker_id="w-1",
        account_id=account_id,
        status=status,
        started_at=NOW - timedelta(hours=5, minutes=7),
        error=error,
        metadata={**data, **metadata},
    )


def shown(width: int, *workers: WorkerInfo, others: dict[str, tuple[str, str]] | None = None) -> list[str]:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(worker_table(workers, others, now=NOW, width=width))
    text = console.file
    assert isinstance(text, StringIO)
    return [line.rstrip() for line in text.getvalue().splitlines()]


def test_a_running_worker_on_a_wide_and_a_narrow_terminal() -> None:
    assert shown(120, info())[1].split() == [
        *("account-001", "running", "healthy", "alpha", "4711", "5h07m", "10000.00", "USD", "2", "0s")
    ]
    narrow = shown(80, info())
    assert narrow[1].split() == ["account-001", "running", "healthy", "5h07m", "10000.00", "USD", "2", "0s"]
    assert all(len(line) <= 80 for line in narrow)


def test_a_dead_worker_shows_no_old_figures() -> None:
    row = shown(120, info(status=S.FAILED, error="killed"))[1]
    assert row.split() == ["account-001", "failed", "alpha", "killed"]


def test_an_unknown_worker_keeps_its_last_figures_and_says_why() -> None:
    row = " ".join(shown(200, info(status=S.UNKNOWN, error="silent", health="unknown"))[1].split())
    assert row.startswith("account-001 unknown unknown alpha 4711")
    assert row.endswith("silent")


def test_a_degraded_worker_says_why() -> None:
    assert "algo trading off" in shown(200, info(health="degraded", health_reason="algo trading off"))[1]


def test_errors_are_one_line_without_markup() -> None:
    (_, row) = shown(200, info(status=S.FAILED, error="[bold]no[/bold]\nsecond [x"))
    assert "[bold]no[/bold] second [x" in row


def test_accounts_without_a_worker_show_a_reason() -> None:
    others = {"account-000": ("disabled", "enabled: false"), "account-001": ("invalid", "f.yaml:1:2: wrong")}
    rows = shown(200, info(status=S.STOPPED), info("account-002"), others=others)
    assert [row.split()[:2] for row in rows[1:]] == [
        ["account-001", "invalid"],  # trouble first
        ["account-002", "running"],
        ["account-000", "disabled"],
    ]
    assert "f.yaml:1:2: wrong" in rows[1]
    assert shown(200, info(), others=others)[1].split()[1] == "running", (
        "what runs meanwhile is shown as it is"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0s"), (59.9, "59s"), (187, "3m07s"), (18_420, "5h07m"), (273_600, "3d04h")]
)
def test_durations(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_each_change_is_a_line() -> None:
    before = {"a": info("a"), "b": info("b")}
    assert change_lines(before, dict(before)) == []
    now = {**before, "b": info("b", S.FAILED, "killed\nhard"), "c": info("c")}
    assert change_lines(before, now) == ["b failed: killed hard", "c running healthy"]


def test_validation_lines() -> None:
    results = {
        "a": ValidationResult(valid=True, account_id="a", warnings=("f: w",)),
        "b": ValidationResult(valid=False, account_id="b", errors=("g: e",)),
    }
    assert [line for _, line in validation_lines(results)] == [
        "warning: f: w",
        "error: g: e",
        "accounts: 1 valid (1 with warnings), 1 invalid",
    ]
