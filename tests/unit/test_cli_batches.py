"""Output of commands for many accounts: failures, then the summary as the last line."""

import sys

import pytest
from support.servers import RedisServer

from manager.cli.batches import interrupted_text, say_batch
from manager.cli.configs import _say_results
from manager.fleet.batches import BatchStore
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.states import WorkerLifecycleStatus


def as_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make standard output a terminal that also shows standard error."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", sys.stdout)


def worker(account_id: str, status: WorkerLifecycleStatus, **metadata: object) -> WorkerInfo:
    return WorkerInfo(
        worker_id="w", account_id=account_id, status=status, error="it hung", metadata=dict(metadata)
    )


def ids(count: int, first: int = 1) -> list[str]:
    return [f"account-{number:03}" for number in range(first, first + count)]


def test_failures_and_summary_are_the_last_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_terminal(monkeypatch)
    result = BatchResult(
        done={one: worker(one, WorkerLifecycleStatus.RUNNING) for one in ids(150)},
        skipped={one: f"{one}: disabled in its file" for one in ids(48, 151)},
        failed={one: f"{one}: the venue refused the login" for one in ids(2, 199)},
    )
    assert say_batch(result, False, "started") == 1
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) <= 20
    assert shown[-4:] == [
        "skipped: 38 more; --json lists all",
        "error: account-199: the venue refused the login",
        "error: account-200: the venue refused the login",
        "150 started, 48 skipped, 2 failed; `manager ps` shows all",
    ]


def test_without_a_terminal_every_account_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    result = BatchResult(skipped={one: f"{one}: disabled in its file" for one in ids(48)})
    say_batch(result, False, "started")
    assert len(capsys.readouterr().out.splitlines()) == 49


def test_stop_all_names_killed_workers(capsys: pytest.CaptureFixture[str]) -> None:
    stopped = WorkerLifecycleStatus.STOPPED
    result = BatchResult(done={"a": worker("a", stopped, forced=True), "b": worker("b", stopped)})
    assert say_batch(result, False, "stopped") == 0
    output = capsys.readouterr()
    assert output.out == "2 stopped\n"
    assert output.err == (
        "warning: a stopped by force: it hung. Orders and positions may still be open: check them at the "
        "broker\n"
    )


def test_validate_shows_accounts_with_findings_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_terminal(monkeypatch)
    results = [ValidationResult(valid=True, account_id=one) for one in ids(40, 3)]
    invalid = ValidationResult(valid=False, account_id="account-001", errors=("wrong",))
    warned = ValidationResult(valid=True, account_id="account-002", warnings=("odd",))
    _say_results([invalid, warned, *results], set())
    assert capsys.readouterr().out.splitlines() == [
        "40 accounts: valid (--json lists each)",
        "account-002: valid, with warnings",
        "  warning: odd",
        "account-001: invalid",
        "  error: wrong",
    ]


def test_an_interrupt_says_what_was_sent_and_what_continues(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prevents that an operator believes that a stop continues which was never sent."""
    monkeypatch.setenv("MANAGER_REDIS_URL", redis_server.url)
    nothing = "Interrupted before a command was sent: no account is affected."
    assert interrupted_text("batch-1", "stopped") == nothing
    batches, desired = BatchStore(redis_server.url), DesiredStore(redis_server.url)
    tokens = {"a": "token-a", "b": "token-b", "c": "token-c"}
    batches.save("batch-1", "stop", "ana@desk", tokens, {"d": ("failed", "d: its file cannot be read")})
    assert interrupted_text("batch-1", "stopped") == nothing
    for account_id in ("a", "b"):
        desired.set_desired(
            DesiredStateRequest(
                account_id=account_id, state="stopped", token=tokens[account_id], by="ana@desk", why="stop"
            )
        )
    check = "check with `manager batch batch-1`."
    assert interrupted_text("batch-1", "stopped") == (
        f"Interrupted: 0 stopped, 1 failed, the hosts continue with 2, 1 not sent; {check}"
    )
    redis_server.stop()
    assert interrupted_text("batch-1", "stopped") == (
        f"Interrupted. Commands that were sent continue on the hosts; {check}"
    )
