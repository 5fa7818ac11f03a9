"""What a person should look at because of an account's file, and what the versions of a fleet count."""

import pytest

from manager.fleet.version_counts import version_counts
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus
from manager.telemetry.attention import AccountState, Severity, account_attention


def worker(state: object) -> WorkerInfo:
    return WorkerInfo(
        worker_id="w",
        account_id="a",
        status=WorkerLifecycleStatus.RUNNING,
        metadata={"config": state, "health": "healthy"},
    )


@pytest.mark.parametrize(
    ("state", "code", "severity", "command"),
    [
        ("invalid", "invalid_config", Severity.WARNING, "`manager validate a`"),
        ("rolled_back", "rolled_back", Severity.WARNING, "`manager restart a`"),
        ("held", "hold", Severity.WARNING, "`manager approve`"),
        ("vanished", "config_vanished", Severity.WARNING, "`manager stop a`"),
        ("pending", "config_pending", Severity.INFO, "`manager reload a`"),
        ("a later one", "config_pending", Severity.INFO, "`manager reload a`"),
    ],
)
def test_each_state_of_a_file_says_what_to_do(
    state: str, code: str, severity: Severity, command: str
) -> None:
    info = worker({"state": state, "text": "login {account}"})
    (one,) = account_attention(AccountState(account_id="a", worker=info), 0.0)
    assert (one.code, one.severity) == (code, severity)
    assert one.text.endswith("login {account}")
    assert command in one.do
    known = state if state != "a later one" else "unknown"
    assert version_counts([], [info]).config == {known: ["a"]}


def test_a_worker_that_runs_its_file_needs_none() -> None:
    assert account_attention(AccountState(account_id="a", worker=worker(None)), 0.0) == []
