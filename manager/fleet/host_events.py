"""Writes events about hosts that were lost or have been drained.

Hosts cannot write these events themselves. Any reader of the hosts may call `announce`: a guard key in Redis
makes each event appear once.
"""

from collections.abc import Iterable
from typing import Any, Final

from manager.fleet.batch_events import say_once
from manager.fleet.event_types import Notice
from manager.fleet.hosts import HostState
from manager.fleet.redis_client import open_client, translated
from manager.fleet.store import FleetStore

#: Lifetime of a guard key, in seconds.
_REMEMBERED_SECONDS: Final = 30 * 86_400


class HostAnnouncer:
    """Writes `host.lost` and `host.drained`.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, store: FleetStore) -> None:
        self._store = store
        self._client: Any = open_client(store.url)
        #: Guard keys of events that are written, as far as this process knows.
        self._written: set[str] = set()

    def announce_all(self) -> None:
        """Write the missing events of every host."""
        self.announce(self._store.hosts())

    def announce(self, hosts: Iterable[HostState]) -> None:
        """Write the missing events of these hosts.

        Does nothing if this Redis user may not write the guard keys, as a host with the ACL of version 0.2.
        """
        for host in hosts:
            guard = _guard(host)
            if guard is None or guard in self._written:
                continue
            with translated(self._store.url):
                first = say_once(self._client, guard, _REMEMBERED_SECONDS)
            if first is None:
                return
            self._written.add(guard)
            if first:
                self._store.note(_notice(host))


def _guard(host: HostState) -> str | None:
    """Return the guard key of the host's state, or None if it has no event."""
    if host.state == "lost":
        # The number of the last report: an agent that returns and is lost again has another number.
        return f"manager:said:{host.name}:lost:{host.data.get('started_at')}:{host.data.get('word')}"
    if host.state == "drained" and host.drain is not None:
        drain = f"{host.drain.by}:{host.drain.deadline}"
        return f"manager:said:{host.name}:drained:{host.data.get('started_at')}:{drain}"
    return None


def _notice(host: HostState) -> Notice:
    return Notice(
        type=f"host.{host.state}",
        host=host.name,
        by=host.drain.by if host.state == "drained" and host.drain is not None else "",
        data={"workers": host.workers, "version": host.report.version},
    )
