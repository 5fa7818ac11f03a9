"""One line for each event."""

from datetime import UTC, datetime
from typing import Any

import pytest

from manager.cli.events import event_line
from manager.fleet.event_types import Event

AT = datetime(2026, 12, 1, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "data", "by", "expected"),
    [
        ("config.invalid", {"problems": ["a.yaml:1:1: no\nway"]}, "", "config.invalid: a.yaml:1:1: no way"),
        (
            "config.pending",
            {"fields": ["login", "server"]},
            "account file",
            "config.pending: login, server (by",
        ),
        ("config.applied", {"to": "x"}, "", "a config.applied"),
        ("config.applied", {"fields": "nonsense"}, "", "a config.applied"),
        ("account.resting", {"text": "rests until Mon"}, "", "a rests: rests until Mon"),
        ("worker.mode", {"from": "normal", "to": "paused"}, "ops", "trading mode normal -> paused (by ops)"),
    ],
)
def test_a_line_says_what_happened(kind: str, data: dict[str, Any], by: str, expected: str) -> None:
    event = Event(
        id="1-0",
        time=AT,
        host="desk",
        account_id="a",
        worker_id="w",
        status="running",
        error=None,
        kind="other",
        type=kind,
        by=by,
        data=data,
    )
    assert expected in event_line(event)
