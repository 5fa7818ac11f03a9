"""The audit writer of a host: it loses nothing while Redis is up, and delays nothing while it is down."""

import logging
import threading
from typing import Any

import pytest

from manager.errors import FleetUnavailableError
from manager.host.reporting.audit_writer import AuditWriter


class Trail:
    """An audit trail in memory; while `there` is False it raises as without Redis."""

    def __init__(self, *, there: bool) -> None:
        self.there = there
        self.asked = threading.Event()
        self.written: list[str] = []

    def note(self, what: str, *, account_id: str, **_rest: Any) -> None:
        self.asked.set()
        if not self.there:
            raise FleetUnavailableError("Redis does not answer")
        self.written.append(f"{what} {account_id}")

    def close(self) -> None:
        self.there = False


def noted(trail: Trail, entries: int, **more: Any) -> AuditWriter:
    audit = AuditWriter(trail, "h1", **more)  # type: ignore[arg-type]
    audit.start()
    for n in range(entries):
        audit.note("start", f"acct-{n}", "ops", "c-1", "ok")
    return audit


def test_queued_entries_are_written_before_the_end() -> None:
    trail = Trail(there=True)
    noted(trail, 500).close()
    assert trail.written == [f"start acct-{n}" for n in range(500)]


def test_an_entry_waits_for_redis_to_come_back() -> None:
    trail = Trail(there=False)
    audit = noted(trail, 3, retry_seconds=0.01)
    assert trail.asked.wait(10)
    trail.there = True
    audit.close()
    assert trail.written == ["start acct-0", "start acct-1", "start acct-2"]


def test_the_end_does_not_wait_for_redis(caplog: pytest.LogCaptureFixture) -> None:
    trail = Trail(there=False)
    audit = noted(trail, 5_000)
    assert trail.asked.wait(10)
    with caplog.at_level(logging.ERROR):
        audit.close()
    assert trail.written == []
    assert "while the agent ends" in caplog.text


def test_entries_beyond_the_capacity_are_logged_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        audit = noted(Trail(there=False), 20, capacity=10)
    assert "too many entries wait" in caplog.text
    audit.close()
