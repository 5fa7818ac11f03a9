"""Events, attention items, findings and lines of output about limits."""

from pathlib import Path
from typing import Any

import pytest

from manager.api.rendering import limits_data
from manager.cli.events import event_line
from manager.cli.info import _limits_text
from manager.doctor.limits import limits_check
from manager.fleet.event_types import Remark, WorkerChange, change_fields, parse_event
from manager.models import WorkerInfo
from manager.settings import Settings
from manager.states import WorkerLifecycleStatus
from manager.telemetry.attention import AccountState, Severity, account_attention

DATA = {
    "limit": "memory_mb",
    "value": 412.0,
    "most": 400,
    "trend": 112.0,
    "trend_seconds": 60,
    "action": "restart",
    "when": "when it is flat, in 10m at the latest",
    "text": "memory 412 MB > limits.memory_mb 400",
}


def worker(**metadata: Any) -> WorkerInfo:
    return WorkerInfo(
        worker_id="w",
        account_id="a",
        status=WorkerLifecycleStatus.RUNNING,
        metadata={"health": "healthy", **metadata},
    )


def test_an_excess_is_an_event_with_value_limit_trend_and_action() -> None:
    fields = change_fields("h", WorkerChange(worker(), remark=Remark("limit.exceeded", DATA)))
    assert (fields["kind"], fields["type"], fields["status"]) == ("other", "limit.exceeded", "running")
    event = parse_event(b"1-0", {key.encode(): value.encode() for key, value in fields.items()})
    assert event.data == DATA
    assert event_line(event).endswith(
        "a limit.exceeded: memory 412 MB > limits.memory_mb 400 (+112 within 60 s); "
        "restart when it is flat, in 10m at the latest"
    )


def test_the_end_of_an_excess_is_an_event() -> None:
    fields = change_fields(
        "h", WorkerChange(worker(), remark=Remark("limit.cleared", {"limit": "memory_mb"}))
    )
    event = parse_event(b"1-0", {key.encode(): value.encode() for key, value in fields.items()})
    assert event_line(event).endswith("a limit.cleared: memory_mb")


def test_an_excess_needs_attention_while_it_lasts() -> None:
    text = "memory 412 MB > limits.memory_mb 400"
    state = AccountState(account_id="a", worker=worker(exceeded={"memory_mb": text}))
    (one,) = account_attention(state, 0.0)
    assert (one.code, one.severity, one.text) == ("limit_exceeded", Severity.WARNING, text)
    assert "limits.memory_mb" in one.do
    assert account_attention(AccountState(account_id="a", worker=worker(exceeded=None)), 0.0) == []


def test_info_shows_limits_with_what_is_used() -> None:
    limits = {"memory_mb": 400, "memory_hard_mb": 600, "cpu_percent": 90, "processes": 4, "on_exceed": "warn"}
    info = worker(limits=limits, memory_bytes=13 << 20, cpu_percent=0.7)
    assert _limits_text(info) == (
        "memory 13 of 400 MB, killed at 600 MB, CPU 0.7 of 90 %, processes 4; above them: warn"
    )


def test_the_api_shows_limits_with_what_is_used() -> None:
    limits = {"memory_mb": 400, "on_exceed": "warn"}
    assert limits_data({"limits": limits, "memory_bytes": 13 << 20, "cpu_percent": 0.7, "processes": 1}) == {
        "memory_mb": 400,
        "on_exceed": "warn",
        "memory_now_mb": 13,
        "cpu_now_percent": 0.7,
        "processes_now": 1,
        "state": "ok",
    }
    exceeded = limits_data({"limits": limits, "exceeded": {"memory_mb": "x"}})
    assert exceeded is not None
    assert exceeded["state"] == "exceeded"
    assert limits_data({}) is None


@pytest.mark.parametrize(
    ("report", "setting", "outcome", "text"),
    [
        ({"mechanism": "watched", "why": "no cgroup v2"}, "auto", "ok", "because no cgroup v2"),
        ({"mechanism": "watched", "why": "no cgroup v2"}, "cgroup", "warning", "because no cgroup v2"),
        ({"mechanism": "cgroup", "controllers": ["memory", "pids"]}, "auto", "ok", "limits.memory_hard_mb"),
        ({"mechanism": "off", "why": "MANAGER_LIMITS is off"}, "auto", "warning", "are off"),
        ({"mechanism": 5, "controllers": 7, "why": None}, "auto", "ok", "it has no control groups"),
    ],
)
def test_the_doctor_says_which_mechanism_a_host_has_and_why_not_a_better_one(
    tmp_path: Path, report: dict[str, Any], setting: Any, outcome: str, text: str
) -> None:
    settings = Settings(config_dir=tmp_path, state_dir=tmp_path, host="h", limits=setting)
    check = limits_check("h", report, settings)
    assert (check.code, check.outcome) == ("limits", outcome)
    assert text in check.found
