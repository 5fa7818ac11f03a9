"""Server states in which Redis answers but refuses commands.

Each counts as an outage. A server that became a replica, waits for its replicas, cannot write to its disk or
runs as a cluster answers every command with an error. A client that blames the command ends, or keeps its
connection to the wrong server for ever. A connection class made by `refusal_aware` raises ServerRefusesError,
a connection error, and closes the connection. The next command then connects to the server that a failover
chose.
"""

import contextlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from redis import exceptions
from redis.connection import AbstractConnection


@dataclass(frozen=True, slots=True)
class Outage:
    """A state in which a server refuses commands."""

    #: The server's own code for it.
    code: str
    #: The end of a sentence that begins with "Redis at X".
    what: str
    #: What to do next.
    advice: str


_READ_ONLY = Outage(
    "READONLY",
    "is a read-only replica (READONLY)",
    "point MANAGER_REDIS_URL at the primary; after a failover use the name that follows it, or sentinel://",
)
_CLUSTER_ADVICE: Final = "use a single server, or several with Sentinel (sentinel://)"
_CLUSTER = Outage("CLUSTER", "runs as a cluster, which Celery's broker cannot use", _CLUSTER_ADVICE)
_OUTAGES: Final = {
    outage.code: outage
    for outage in (
        _READ_ONLY,
        Outage(
            "NOREPLICAS",
            "accepts no writes because too few replicas are in sync (NOREPLICAS, min-replicas-to-write)",
            "bring the replicas back, or lower min-replicas-to-write",
        ),
        Outage(
            "MISCONF",
            "accepts no writes because it cannot save to its disk (MISCONF, stop-writes-on-bgsave-error)",
            "free space on the server's disk, or see its log; it accepts writes again once it has saved",
        ),
        Outage("LOADING", "is still loading its data (LOADING)", "try again in a moment"),
        Outage(
            "MASTERDOWN",
            "is a replica that has lost its primary (MASTERDOWN)",
            "point MANAGER_REDIS_URL at the primary, or use sentinel://",
        ),
        Outage(
            "OOM",
            "is out of memory (OOM) and accepts no new data",
            "raise maxmemory, or find out what fills it; running workers continue",
        ),
        Outage("UNBLOCKED", "changed its role during the command", "try again in a moment"),
        Outage(
            "BUSY",
            "is busy with a script that does not end (BUSY)",
            "end it with SCRIPT KILL, as a user with that right",
        ),
        Outage("CLUSTERDOWN", "runs as a cluster, and the cluster is down", _CLUSTER_ADVICE),
        *(Outage(code, _CLUSTER.what, _CLUSTER_ADVICE) for code in ("MOVED", "ASK", "TRYAGAIN", "CROSSSLOT")),
    )
}
_MAX_CLIENTS: Final = Outage(
    "MAXCLIENTS",
    "accepts no more connections (its maxclients is reached)",
    "raise maxclients and the server's limit of open files: each worker needs one connection; "
    "`manager doctor` shows the number",
)
#: Errors for which redis-py has a class, and whose text it strips of the code. Subclasses first.
_CLASSES: Final[tuple[tuple[type[Exception], str], ...]] = (
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.TryAgainError, "TRYAGAIN"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (exceptions.MovedError, "MOVED"),
    (exceptions.AskError, "ASK"),
)
#: A code at the start, or inside a script's error: "ERR Error running script ...: @user_script: 1: -READONLY
#: ...".
_CODE: Final = re.compile(rf"(?:^|[\s:]-?)({'|'.join(_OUTAGES)}) ")


class ServerRefusesError(exceptions.ConnectionError):
    """Raised when a server refuses a command because of its state."""

    def __init__(self, outage: Outage, text: str) -> None:
        super().__init__(text if text.startswith(outage.code) else f"{outage.code} {text}")
        self.outage = outage


def outage_of(error: BaseException) -> Outage | None:
    """Return the server state that caused the error; None for any other error."""
    if isinstance(error, ServerRefusesError):
        return error.outage
    for kind, code in _CLASSES:
        if isinstance(error, kind):
            return _OUTAGES[code]
    text = str(error)
    if "max number of clients" in text:
        return _MAX_CLIENTS
    if not isinstance(error, exceptions.ResponseError | exceptions.ConnectionError):
        return None
    if "maxmemory" in text:
        return _OUTAGES["OOM"]
    if "cluster mode" in text:
        return _CLUSTER
    if "read only replica" in text or "read only slave" in text:
        return _READ_ONLY
    found = _CODE.search(text[:500])
    return None if found is None else _OUTAGES[found[1]]


class _RefusalAware:
    """Mixin for redis-py's connection classes."""

    #: Whether the socket is open but the server has not answered on it yet.
    _unanswered = False
    #: The server's error before it closed such a socket.
    _farewell = b""

    def _connect(self) -> Any:
        self._farewell = b""
        sock = super()._connect()  # type: ignore[misc]
        self._unanswered = True
        return sock

    def connect_check_health(self, *args: Any, **options: Any) -> Any:
        try:
            return super().connect_check_health(*args, **options)  # type: ignore[misc]
        except exceptions.ConnectionError as error:
            outage = outage_of(exceptions.ConnectionError(self._farewell.decode(errors="replace")))
            if outage is None:
                raise
            raise ServerRefusesError(outage, str(error)) from None
        finally:
            self._unanswered = False

    def disconnect(self, *args: Any, **options: Any) -> Any:
        sock = getattr(self, "_sock", None)
        if self._unanswered and sock is not None:
            # A server with too many clients sends an error and closes. Our failed write would hide that
            # error.
            with contextlib.suppress(OSError, ValueError):
                sock.setblocking(False)
                self._farewell = sock.recv(200)
        return super().disconnect(*args, **options)  # type: ignore[misc]

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except exceptions.ResponseError as error:
            outage = outage_of(error)
            if outage is None:
                raise
            self.disconnect()
            raise ServerRefusesError(outage, str(error)) from None


@lru_cache(maxsize=64)
def refusal_aware(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return a connection class that treats a refusing server as unreachable."""
    if issubclass(connection_class, _RefusalAware):
        return connection_class
    return type(f"RefusalAware{connection_class.__name__}", (_RefusalAware, connection_class), {})
