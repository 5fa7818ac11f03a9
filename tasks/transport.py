"""The transport of this process: the fleet's connections, under channels that check what they read."""

from typing import Any

from kombu.transport import redis as redis_transport

from manager.fleet.celery_redis import FleetChannel, FleetTransport


class TaskTransport(FleetTransport):
    """The fleet's transport with whatever channel checks messages in this process."""

    @property
    def Channel(self) -> Any:  # type: ignore[override]  # noqa: N802 - kombu's name
        checked = redis_transport.Transport.Channel
        return type("CheckedFleetChannel", (FleetChannel, checked), {})
