"""An agent's claim on its host's name.

The agent claims the name before anything else. A thread renews the claim, and the agent releases it at the
end. It prevents that two agents with the same name run the same accounts:

    agent A starts, and is busy with a stop that arrived while no agent ran; it is not announced yet
    agent B with the same name starts on another state directory, sees no live agent, and announces itself
    both adopt the name's accounts, and each receives commands meant for the other

A claim is valid while it is renewed. A claim whose process has provably ended on this machine is replaced at
once.
"""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from manager.errors import FleetUnavailableError, HostAgentError
from manager.fleet import FleetStore
from manager.fleet.host_names import Claimant, HostNames
from manager.fleet.hosts import HOST_STALE_AFTER
from manager.system import logs
from manager.system.processes import ProcessRef

logger = logging.getLogger(__name__)

#: Seconds between two renewals, and between two checks of a claim that may be stale.
_RENEW_SECONDS: Final = 1.0
_CHECK_SECONDS: Final = 0.2


class NameClaim:
    """One agent's claim. Thread-safe; `start` and `close` once each."""

    def __init__(
        self,
        url: str,
        host: str,
        home: str,
        machine: str,
        lost: Callable[[str], None],
        fresh_seconds: float = HOST_STALE_AFTER,
    ) -> None:
        """Prepare a claim, without making it.

        `home` is the id of the state directory whose lock this process holds, `machine` an id of the machine.
        `lost` is called once, with the reason, if another agent has the name. A claim is stale
        `fresh_seconds` after its last renewal.
        """
        self._names = HostNames(url, fresh_seconds)
        self._host = host
        self._lost = lost
        self._fresh = fresh_seconds
        # Several renewals while a claim is fresh: one late renewal must not lose the name.
        self._renew = min(_RENEW_SECONDS, fresh_seconds / 4)
        self._token = uuid4().hex
        self._data: dict[str, Any] = {
            **ProcessRef.me().to_dict(),
            "home": home,
            "machine": machine,
            "space": process_space(),
            "node": socket.gethostname(),
        }
        self._lock = threading.Lock()
        self._ours = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="name-claim", daemon=True)

    def take(self) -> None:
        """Claim the name; block a few seconds if it has a claim that may be stale.

        While Redis is down the claim stays open: `ensure` and the thread make it as soon as Redis is back.
        Raises HostAgentError if another agent has the name.
        """
        first: Claimant | None = None
        deadline = time.monotonic() + self._fresh + _RENEW_SECONDS
        while True:
            try:
                other = self._try()
            except FleetUnavailableError as error:
                logs.event(
                    logger,
                    logging.WARNING,
                    "name_unclaimed",
                    f"{error}; the host's name is claimed when Redis is back",
                )
                return
            if other is None:
                return
            if first is None or first.token != other.token:
                first = other
            # A renewal proves that the other agent runs. Without one the claim becomes stale.
            if other.at != first.at or time.monotonic() >= deadline:
                raise HostAgentError(self._taken(other))
            self._closing.wait(_CHECK_SECONDS)

    def ensure(self) -> None:
        """Raise unless this agent has the name.

        Asks Redis only while the claim is still open.

        Raises:
            HostAgentError: another agent has the name.
            FleetUnavailableError: Redis cannot be used.
        """
        if self._ours:
            return
        other = self._try()
        if other is not None:
            raise HostAgentError(self._taken(other))

    def start(self) -> None:
        """Start the thread that renews the claim."""
        self._thread.start()

    def close(self) -> None:
        """Stop renewing, and release the name if Redis answers."""
        self._closing.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()
        try:
            self._names.release(self._host, self._token)
        except FleetUnavailableError as error:
            logs.event(logger, logging.DEBUG, "name_unreleased", str(error))
        self._ours = False
        self._names.close()

    def _run(self) -> None:
        while not self._closing.wait(self._renew):
            try:
                other = self._try()
            except FleetUnavailableError:
                continue
            except Exception:
                logger.exception("the claim on the host's name could not be renewed")
                continue
            if other is not None and not self._closing.is_set():
                self._ours = False
                self._lost(self._taken(other))
                return

    def _try(self) -> Claimant | None:
        """Claim or renew the name; return the other claimant if there is one."""
        with self._lock:
            other = self._names.claim(self._host, self._token, self._data)
            # An agent that claimed the name while this one was silent is not replaced: the two would take
            # turns.
            if other is not None and not self._ours and self._has_ended(other):
                other = self._names.claim(self._host, self._token, self._data, replaces=other.token)
            if other is None:
                self._ours = True
            return other

    def _has_ended(self, other: Claimant) -> bool:
        """Return whether the other agent has provably ended."""
        theirs, mine = other.data, self._data
        if theirs.get("machine") != mine["machine"]:
            return False
        process = ProcessRef.from_dict(dict(theirs))
        if theirs.get("space") == mine["space"]:
            return process is not None and not process.alive()
        # A pid of another container's PID namespace proves nothing. But this process holds the lock of its
        # state directory, and the kernel releases a lock only when its holder has ended.
        return bool(theirs.get("home") == mine["home"])

    def _taken(self, other: Claimant) -> str:
        return (
            f"a host agent named {self._host} is alive already (pid {other.data.get('pid')} on "
            f"{other.data.get('node')}, state directory id {other.data.get('home')}): every host needs its "
            "own MANAGER_HOST; give this one another name, or stop the other one first"
        )


def process_space() -> str:
    """Return an id of this process's PID namespace.

    Pids are comparable only within one namespace.
    """
    if sys.platform != "linux":
        return ""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return f"unknown-{os.getpid()}"


def refuse_live_namesake(store: FleetStore, host: str, machine: str) -> None:
    """Raise HostAgentError if a live agent without a claim has this name.

    An agent of version 0.2 makes no claim.
    """
    try:
        hosts = store.hosts()
    except FleetUnavailableError as error:
        # An outage is no reason to leave workers without an agent. Celery itself waits until Redis is back.
        logs.event(logger, logging.WARNING, "redis_unavailable", str(error))
        return
    for state in hosts:
        if state.name != host or not state.live:
            continue
        if state.report.machine == machine:
            other = ProcessRef.from_dict(dict(state.data))
            if other is None or not other.alive():
                continue
        raise HostAgentError(
            f"a host agent named {state.name} is alive already (pid {state.report.pid} on machine "
            f"{state.report.machine}): every host needs its own MANAGER_HOST"
        )
