"""Attention order of every list that may be longer than its screen."""

from io import StringIO

from rich.console import Console

from manager.cli.ps import _screen
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus as S
from manager.terminal.listing import make_rows, sort_rows
from manager.terminal.tables import worker_table

WORKERS = [
    WorkerInfo(worker_id="w", account_id=name, status=status, metadata={"host": "h", "health": health})
    for name, status, health in (
        ("a-running", S.RUNNING, "healthy"),
        ("b-stopped", S.STOPPED, "healthy"),
        ("c-degraded", S.RUNNING, "degraded"),
        ("d-starting", S.STARTING, "unknown"),
        ("e-restarting", S.RESTARTING, "healthy"),
        ("f-unhealthy", S.RUNNING, "unhealthy"),
        ("g-unknown", S.UNKNOWN, "unknown"),
        ("h-failed", S.FAILED, "unknown"),
        ("i-running", S.RUNNING, "healthy"),
    )
]
OTHERS = {"j-invalid": ("invalid", "f:1:2: wrong"), "k-disabled": ("disabled", "enabled: false")}
EXPECTED = [
    *("h-failed", "j-invalid", "f-unhealthy", "g-unknown", "c-degraded", "e-restarting"),
    *("a-running", "d-starting", "i-running", "b-stopped", "k-disabled"),
]


def shown(width: int, rows: int | None = None, workers: list[WorkerInfo] = WORKERS) -> list[str]:
    output = StringIO()
    console = Console(file=output, width=width, color_system=None)
    console.print(worker_table(workers, OTHERS, width=width, rows=rows))
    return output.getvalue().splitlines()[1:]


def test_both_lists_sort_by_attention_then_account() -> None:
    assert [line.split()[0] for line in shown(120)] == EXPECTED
    rows = sort_rows(make_rows(WORKERS, OTHERS), "attention")
    assert [row.cells["account"] for row in rows] == EXPECTED


def test_the_live_table_has_one_line_per_account_at_every_width() -> None:
    failed = WORKERS[7].with_(error="the program exited with code 1: " + "Exchange rejected the order " * 9)
    for width in (80, 120):
        lines = shown(width, 3, [*WORKERS, failed])
        assert [line.split()[0] for line in lines] == EXPECTED[:3]
        assert all(len(line) <= width for line in lines)
        assert "the program" in lines[0]
        assert lines[0].rstrip().endswith("...")


def test_a_restarting_worker_is_not_shown_as_healthy() -> None:
    (line,) = [line for line in shown(120) if "restarting" in line.split()[1]]
    assert "healthy" not in line


def test_a_watched_list_counts_hidden_accounts() -> None:
    lines = ["account", *EXPECTED]
    assert _screen(lines, 24) == [*lines, "", "Ctrl-C ends this view; workers are not affected"]
    assert _screen(lines, 6) == [
        *lines[:4],
        "",
        "8 accounts more. Ctrl-C ends this view; workers are not affected",
    ]
