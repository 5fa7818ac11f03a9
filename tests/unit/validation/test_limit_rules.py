"""Limits of accounts: their ranges, and limits with which no worker could run."""

from datetime import timedelta
from typing import Any

import pytest
from support.configs import config

from manager.config import AccountConfig, ReadyConfig
from manager.config.models import BUILT_IN
from manager.config.models_limits import LimitsConfig
from manager.validation.limit_rules import limit_findings


def findings(limits: dict[str, Any], **account: Any) -> tuple[dict[str, str], dict[str, str]]:
    """Return errors and warnings by key."""
    found = list(limit_findings(config(limits=LimitsConfig.model_validate(limits), **account)))
    return (
        {str(one.place[-1]): one.text for one in found if not one.warning},
        {str(one.place[-1]): one.text for one in found if one.warning},
    )


def program() -> dict[str, Any]:
    return {"gateway": "command", "command": ("/bin/sleep", "9"), "ready": ReadyConfig(after_seconds=1)}


def test_an_account_without_limits_has_none_and_the_built_in_values_are_the_models() -> None:
    assert AccountConfig.model_fields["limits"].default == LimitsConfig.model_validate(BUILT_IN["limits"])
    assert LimitsConfig().given == {}
    assert findings({}) == ({}, {})


@pytest.mark.parametrize(
    ("name", "refused", "allowed"),
    [
        ("memory_mb", 63, 64),
        ("memory_hard_mb", 63, 64),
        ("cpu_percent", 4.9, 5),
        ("open_files", 63, 64),
        ("processes", 1, 2),
        ("memory_mb", 1_048_577, 1_048_576),
        ("cpu_window", "9s", "10s"),
        ("cpu_window", "61m", "1h"),
        ("grace", "25h", "1d"),
    ],
)
def test_ranges(name: str, refused: Any, allowed: Any) -> None:
    errors, _ = findings({name: refused})
    assert list(errors) == [name]
    assert findings({name: allowed}) == ({}, {})


def test_a_limit_below_what_a_worker_needs_to_start_names_what_it_needs() -> None:
    errors, _ = findings({"memory_mb": 40, "processes": 3}, **program())
    assert errors["memory_mb"] == (
        "40 is below the 64 MB that a worker needs to start; 64 or more is allowed"
    )
    assert errors["processes"] == (
        "3 is below the 4 processes that a worker and its program need to start; 4 or more is allowed"
    )


def test_a_limit_below_the_reserved_memory_is_a_warning() -> None:
    errors, warnings = findings({"memory_mb": 300, "memory_hard_mb": 600}, memory_mb=512)
    assert errors == {}
    assert warnings["memory_mb"].startswith("300 is below the memory_mb (512) that the account reserves")
    assert list(warnings) == ["memory_mb"]


def test_the_hard_limit_lies_above_the_other_one() -> None:
    errors, _ = findings({"memory_mb": 400, "memory_hard_mb": 400})
    assert "killed before it can stop cleanly" in errors["memory_hard_mb"]


def test_actions_that_cannot_work_are_refused() -> None:
    errors, _ = findings({"memory_mb": 400, "on_exceed": "throttle"})
    assert "limits.cpu_percent, which is not set" in errors["on_exceed"]
    errors, _ = findings({"memory_mb": 400, "on_exceed": "pause"}, **program())
    assert "pause is not supported with gateway command" in errors["on_exceed"]
    assert findings({"memory_mb": 400, "on_exceed": "pause"}) == ({}, {})


def test_when_flat_of_a_program_is_a_warning() -> None:
    _, warnings = findings({"memory_mb": 400}, **program())
    assert "always waits for limits.grace (10m)" in warnings["when_flat"]
    assert findings({"memory_mb": 400, "when_flat": False}, **program()) == ({}, {})
    assert findings({"memory_hard_mb": 400}, **program()) == ({}, {})


@pytest.mark.parametrize(
    ("on_exceed", "limit", "action"),
    [
        ("restart", "memory_mb", "restart"),
        ("warn", "memory_hard_mb", "kill"),
        ("throttle", "cpu_percent", "throttle"),
        ("throttle", "memory_mb", "restart"),
    ],
)
def test_the_action_of_each_limit(on_exceed: Any, limit: str, action: str) -> None:
    assert LimitsConfig(on_exceed=on_exceed).action(limit) == action


def test_durations_are_written_as_they_are_read() -> None:
    limits = LimitsConfig.model_validate({"memory_mb": 400, "grace": "5m"})
    assert limits.grace == timedelta(minutes=5)
    assert limits.to_record() == {
        "memory_mb": 400,
        "cpu_window": "1m",
        "on_exceed": "restart",
        "when_flat": True,
        "grace": "5m",
    }
    assert LimitsConfig.model_validate(limits.to_record()) == limits
