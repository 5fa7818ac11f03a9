"""`manager ps` at every width: whole words, one line per account, always the host."""

from datetime import UTC, datetime
from typing import Any

import click
import pytest

from manager.cli.ps import ps
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus as S
from manager.terminal.listing import COLUMNS, lines, make_rows, size_text, sort_rows

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


def test_without_a_terminal_nothing_is_cut() -> None:
    shown = lines(make_rows([info("account-002", S.FAILED)], {}), None)
    assert len(shown) == 2
    assert " ".join(ERROR.split()) in shown[1]
    assert "\x1b" not in shown[1]


def test_a_restarting_worker_is_not_shown_as_healthy() -> None:
    (row,) = make_rows([info("account-001", S.RESTARTING)], {})
    assert row.cells["health"] == ""
    assert row.cells["restarts"] == "3"


def test_accounts_without_a_worker_and_bad_files_show_a_reason() -> None:
    others = {
        "account-001": ("disabled", "enabled: false"),
        "account-002": ("file gone", "its account file is missing"),
        "account-003": ("never started", ""),
    }
    rows = make_rows([info("account-001", S.STOPPED), info("account-002")], others)
    assert [row.cells["state"] for row in rows] == ["disabled", "running", "never started"]
    assert rows[1].cells["attention"] == "its account file is missing"
    assert [row.cells["account"] for row in sort_rows(rows, "restarts")][-1] == "account-003"


USED: dict[str, Any] = {"cpu_percent": 12.34, "memory_bytes": 13_400_000, "processes": 4}


def test_resource_use_is_shown_for_live_workers_if_it_fits() -> None:
    workers = [info("account-001", **USED), info("account-002", S.STOPPED, **USED), info("account-003")]
    rows = make_rows(workers, {})
    wide = lines(rows, None)
    assert {"12.3%", "4"} <= set(wide[1].split())
    assert "13.4 MB" in wide[1]
    assert "12.3%" not in "".join(wide[2:])
    narrow = lines(rows, 80)
    assert "12.3%" not in narrow[1]
    assert "london-1" in narrow[1]


def test_chosen_columns_are_shown_in_their_order_at_every_width() -> None:
    rows = make_rows([info("account-001", **USED)], {})
    for width in (None, 30):
        assert [line.split() for line in lines(rows, width, ("memory", "account", "cpu"))] == [
            ["memory", "account", "cpu"],
            ["13.4", "MB", "account-001", "12.3%"],
        ]


def test_the_list_is_sorted_by_every_key_of_the_option() -> None:
    rows = make_rows(
        [info("account-001", **USED), info("account-002", cpu_percent=99.0, memory_bytes=1, processes=9)], {}
    )
    for by, first in (("cpu", "account-002"), ("memory", "account-001"), ("procs", "account-002")):
        assert sort_rows(rows, by)[0].cells["account"] == first
    (option,) = [one for one in ps.params if one.name == "by"]
    assert isinstance(option.type, click.Choice)
    for by in option.type.choices:
        assert {row.cells["account"] for row in sort_rows(rows, by)} == {"account-001", "account-002"}
    (columns,) = [one for one in ps.params if one.name == "columns"]
    assert isinstance(columns, click.Option)
    assert ", ".join(COLUMNS) in (columns.help or "")


@pytest.mark.parametrize(
    ("size", "text"),
    [(512_000, "512 kB"), (13_400_000, "13.4 MB"), (2_100_000_000, "2.1 GB"), (0, "0 kB")],
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


@pytest.mark.parametrize("nonsense", ["many", True, [], {}])
def test_an_invalid_number_is_left_out(nonsense: object) -> None:
    (row,) = make_rows([info("account-001", cpu_percent=nonsense, memory_bytes=nonsense)], {})
    assert (row.cells["cpu"], row.cells["memory"]) == ("", "")


def test_a_paused_account_is_marked_in_every_state() -> None:
    (row,) = make_rows([info("a", trading_mode="paused")], {})
    assert row.cells["attention"] == "paused: it sends no orders"
