"""The transport of this process: the fleet's connections, under the channels that check what they read.

It is imported when the first connection is made, after `tasks.app` has put the checks in place.
"""

from kombu.transport import redis as redis_transport

from manager.fleet.celery_redis import FleetChannel, FleetTransport


class TaskTransport(FleetTransport):
    """The fleet's transport with the channel that checks messages in this process."""

    Channel = type("CheckedFleetChannel", (FleetChannel, redis_transport.Transport.Channel), {})
