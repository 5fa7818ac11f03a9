"""Runs for tests of the run history."""

from datetime import UTC, datetime, timedelta
from typing import Any

from manager.fleet.run_types import Run

STARTED = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def run(n: int = 1, account_id: str = "a", host: str = "h", **more: Any) -> Run:
    """Return the run of worker `w-<n>`, which ended `n` minutes after `STARTED`."""
    fields: dict[str, Any] = {
        "account_id": account_id,
        "worker_id": f"w-{n}",
        "host": host,
        "started_at": STARTED,
        "ended_at": STARTED + timedelta(minutes=n),
        "status": "stopped",
        **more,
    }
    return Run.model_validate(fields)
