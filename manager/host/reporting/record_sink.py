"""The interface through which a pool publishes worker records."""

from collections.abc import Mapping
from typing import Any, Protocol

from manager.fleet.event_types import HealthChange, ModeChange, Remark
from manager.models import WorkerInfo


class RecordSink(Protocol):
    """Publishes worker records to the fleet. Thread-safe."""

    def publish(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, *, wait_seconds: float = 0.0
    ) -> bool:
        """Queue a record; return whether it was written within `wait_seconds`."""

    def publish_health(self, info: WorkerInfo, change: HealthChange) -> None:
        """Queue a record whose health has changed, and the event for it."""

    def publish_mode(self, info: WorkerInfo, change: ModeChange) -> None:
        """Queue a record whose trading mode has changed, and the event for it."""

    def publish_remark(self, info: WorkerInfo, remark: Remark) -> None:
        """Queue a record of which something else has changed, and the event for it."""

    def flush(self, seconds: float) -> bool:
        """Wait at most `seconds` until everything published so far is written.

        Returns whether it is.
        """


class NoSink:
    """Discards records: for a pool in a script without Redis."""

    def publish(
        self, info: WorkerInfo, beat: Mapping[str, Any] | None = None, *, wait_seconds: float = 0.0
    ) -> bool:
        del info, beat, wait_seconds
        return True

    def publish_health(self, info: WorkerInfo, change: HealthChange) -> None:
        del info, change

    def publish_mode(self, info: WorkerInfo, change: ModeChange) -> None:
        del info, change

    def publish_remark(self, info: WorkerInfo, remark: Remark) -> None:
        del info, remark

    def flush(self, seconds: float) -> bool:
        del seconds
        return True
