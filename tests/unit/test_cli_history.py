"""`manager history`: runs and events of one account, for people and as JSON."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.configs import Directory
from support.runs import STARTED, run
from support.servers import RedisServer

from manager.cli.main import cli
from manager.errors import AccountNotFoundError
from manager.fleet import FleetStore
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus as S
from manager.terminal.run_list import ended_text, run_lines

A = "account-001"


@pytest.fixture
def store(
    redis_server: RedisServer, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FleetStore]:
    Directory(short_dir / "config").write(A, "gateway: paper\n")
    monkeypatch.setenv("MANAGER_REDIS_URL", redis_server.url)
    monkeypatch.setenv("MANAGER_CONFIG_DIR", str(short_dir / "config"))
    monkeypatch.setenv("MANAGER_STATE_DIR", str(short_dir / "state"))
    found = FleetStore(redis_server.url)
    yield found
    found.close()


def history(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["history", *arguments])


KILLED = run(
    3,
    A,
    by="ana@desk",
    why="start",
    status="failed",
    exit_code=-9,
    reason="the worker process was ended by SIGKILL",
    memory_peak_bytes=13_400_000,
    currency="USD",
    equity_first="10000.00",
    equity_last="9990.50",
)


def test_runs_come_newest_last_with_who_and_why(store: FleetStore) -> None:
    store.report_agent("h", {})
    store.runs.write("h", [run(1, A), run(2, "other"), KILLED])
    shown = history(A)
    assert shown.exit_code == 0
    header, first, last = shown.output.splitlines()
    assert header.split()[:2] == ["started", "(UTC)"]
    assert first.split() == ["2026-03-02", "09:00:00", "1m00s", "h", "unknown", "stopped", "itself"]
    assert "start by ana@desk" in last
    assert "10000.00 -> 9990.50 USD" in last
    assert "13.4 MB" in last
    assert last.endswith("the worker process was ended by SIGKILL")
    assert history(A, "-n", "1").output.splitlines() == run_lines([KILLED], None)


def test_json_has_every_key_of_a_run(store: FleetStore) -> None:
    store.report_agent("h", {})
    store.runs.write("h", [run(1, A), KILLED])
    found: list[dict[str, Any]] = json.loads(history(A, "--json").output)
    assert [one["worker_id"] for one in found] == ["w-1", "w-3"]
    assert found[1] == KILLED.to_dict()


def test_events_are_those_of_the_account(store: FleetStore) -> None:
    for account_id, status in ((A, S.STARTING), ("other", S.RUNNING), (A, S.RUNNING)):
        store.record("h", [WorkerInfo(worker_id="w-1", account_id=account_id, status=status)], {})
    shown = history(A, "--events")
    assert [line.split()[-2:] for line in shown.output.splitlines()] == [[A, "starting"], [A, "running"]]
    (found,) = history(A, "--events", "--json", "-n", "1").output.splitlines()
    assert json.loads(found)["type"] == "worker.running"


def test_an_account_without_runs_says_so_and_an_unknown_one_is_an_error(store: FleetStore) -> None:
    shown = history(A)
    assert (shown.exit_code, shown.output) == (0, f"no run of {A} has ended yet\n")
    assert history(A, "--json").output == "[]\n"
    assert "no event of" in history(A, "--events").output
    assert isinstance(history("account-002").exception, AccountNotFoundError)


def test_a_running_worker_is_named_below_its_past_runs(store: FleetStore) -> None:
    store.report_agent("h", {})
    now = WorkerInfo(
        worker_id="w-9", account_id=A, status=S.RUNNING, started_at=STARTED, metadata={"host": "h"}
    )
    store.record("h", [now], {A: {"worker_id": "w-9", "loop_age_seconds": 0.0}})
    store.runs.write("h", [KILLED])
    last = history(A).output.splitlines()[-1]
    assert last == f"{A} runs since 2026-03-02 09:00:00 UTC on host h; `manager info {A}` shows it"


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({}, "itself"),
        ({"ended_by": "ana@desk", "ended_why": "stop"}, "stop by ana@desk"),
        ({"ended_why": "schedule"}, "its schedule"),
        ({"ended_why": "stop", "reason": "killed"}, "stop; killed"),
        ({"observed": False}, "a later host agent found it dead"),
        ({"observed": False, "reason": "killed"}, "killed; a later host agent found it dead"),
    ],
)
def test_why_a_run_ended(more: dict[str, Any], text: str) -> None:
    assert ended_text(run(1, **more)) == text


def test_a_narrow_terminal_leaves_columns_out_and_shows_no_control_characters() -> None:
    hostile = run(1, A, reason="\x1b[31mred\nline " + "long " * 100, equity_last="1", currency="USD")
    (header, line) = run_lines([hostile], 80)
    assert "\x1b" not in line
    assert "\n" not in line
    assert len(line) <= 110
    assert "equity" not in header
    whole = run_lines([run(1, ended_at=STARTED + timedelta(days=3))], None)
    assert "3d00h" in whole[1]
