"""`manager ps` at every width: whole words, one line an account, and the host always."""

from datetime import UTC, datetime

import pytest

from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus as S
from manager.terminal.listing import lines, make_rows, sort_rows

ERROR = "the program exited with code 1: Exchange rejected the order because\nthe margin is too small " * 3


def info(account_id: str, status: S = S.RUNNING, **metadata: object) -> WorkerInfo:
    data = {"host": "london-1", "pid": 4711, "equity": "10000.00", "currency": "USD", "open_positions": 0}
    data |= {"health": "healthy", "restarts": 3, "heartbeat_age_seconds": 1.0}
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return WorkerInfo(
        worker_id="w",
        account_id=account_id,
        status=status,
        started_at=moment,
        error=ERROR if status is S.FAILED else None,
        metadata={**data, **metadata},
    )


@pytest.mark.parametrize("width", [80, 100, 160])
def test_words_are_whole_and_the_host_stays(width: int) -> None:
    rows = make_rows([info("account-001"), info("account-002", S.FAILED)], {})
    shown = lines(rows, width)
    assert len(shown) == 3
    assert all(len(line) <= width for line in shown)
    assert all("london-1" in line for line in shown[1:])
    words = {*ERROR.split(), "...", "account-002", "failed", "london-1", "3"}
    assert set(shown[2].split()) <= words
    assert shown[2].endswith("...")


def test_without_a_terminal_nothing_is_cut_and_a_row_is_a_line() -> None:
    shown = lines(make_rows([info("account-002", S.FAILED)], {}), None)
    assert len(shown) == 2
    assert " ".join(ERROR.split()) in shown[1]
    assert "\x1b" not in shown[1]


def test_a_worker_that_is_started_again_and_again_is_not_called_healthy() -> None:
    (row,) = make_rows([info("account-001", S.RESTARTING)], {})
    assert row.cells["health"] == ""
    assert row.cells["restarts"] == "3"


def test_accounts_without_a_worker_have_their_reason_and_files_their_trouble() -> None:
    others = {
        "account-001": ("disabled", "enabled: false"),
        "account-002": ("file gone", "its file is gone"),
        "account-003": ("never started", ""),
    }
    rows = make_rows([info("account-001", S.STOPPED), info("account-002")], others)
    assert [row.cells["state"] for row in rows] == ["disabled", "running", "never started"]
    assert rows[1].cells["error"] == "its file is gone"
    assert [row.cells["account"] for row in sort_rows(rows, "restarts")][-1] == "account-003"
