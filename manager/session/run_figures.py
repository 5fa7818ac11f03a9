"""What a worker notes of its run for the run history.

The notes are in the heartbeat file, so that they outlive the worker and its host agent.
"""

from datetime import UTC, datetime
from typing import Any

from manager.models import WorkerMetrics


class RunFigures:
    """Collects the figures of one run. Used by the worker's loop only."""

    def __init__(self) -> None:
        self._connected_at: str | None = None
        self._equity_first: str | None = None

    def connected(self) -> None:
        """Note that the session is connected; the first call counts."""
        self._connected_at = self._connected_at or _now()

    def update(self, metrics: WorkerMetrics, memory_peak_bytes: int | None) -> dict[str, Any]:
        """Return the notes, in JSON types.

        `connected_at` and `seen_at` (now) are ISO 8601 in UTC by this machine's clock, `equity_first` is text
        in the account's currency.
        """
        if self._equity_first is None:
            self._equity_first = metrics.equity
        notes = {
            "seen_at": _now(),
            "connected_at": self._connected_at,
            "equity_first": self._equity_first,
            "memory_peak_bytes": memory_peak_bytes,
        }
        return {name: value for name, value in notes.items() if value is not None}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
