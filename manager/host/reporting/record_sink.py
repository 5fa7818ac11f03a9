"""Where a pool's records go."""

from collections.abc import Mapping
from typing import Any, Protocol

from manager.fleet.events import HealthChange
from manager.models import WorkerInfo


class RecordSink(Protocol):
    """Where the pool's records go, so that the fleet sees them."""

    def publish(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, *, wait_seconds: float = 0.0
    ) -> bool: ...

    def publish_health(self, info: WorkerInfo, change: HealthChange) -> None: ...

    def flush(self, seconds: float) -> bool:
        """Wait at most `seconds` until all that was published is written; say whether it is."""


class NoSink:
    """For a pool that reports to nobody: a script without Redis."""

    def publish(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, *, wait_seconds: float = 0.0
    ) -> bool:
        del info, beat, wait_seconds
        return True

    def publish_health(self, info: WorkerInfo, change: HealthChange) -> None:
        del info, change

    def flush(self, seconds: float) -> bool:
        del seconds
        return True
