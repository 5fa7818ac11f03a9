"""This agent's claim on its host's name: taken before anything else, renewed from a thread of its own, and released at the end.

What this prevents:

    agent A starts, and is busy with a stop that it missed: it has not announced itself yet
    agent B of the same name starts on another state directory, sees no live agent, and announces itself
    both take the name's accounts for their own, and each consumes commands that are the other's

A claim counts while it is renewed. That of a process which has provably ended on this very machine is replaced at once.
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
from manager.fleet.host_names import Claimant, HostNames
from manager.fleet.hosts import HOST_STALE_AFTER
from manager.system import logs
from manager.system.processes import ProcessRef

logger = logging.getLogger(__name__)

#: Seconds between two renewals, and between two looks at a claim that may have been left behind.
_RENEW_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.2


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
        """`home` is the id of the state directory whose lock this process holds; `machine` tells machines apart.

        `lost` is called once, with the reason, if another agent turns out to have the name.
        """
        self._names = HostNames(url, fresh_seconds)
        self._host = host
        self._lost = lost
        self._fresh = fresh_seconds
        # Several times while it counts: one renewal that comes late must not lose the name.
        self._renew = min(_RENEW_SECONDS, fresh_seconds / 4)
        self._token = uuid4().hex
        self._data: dict[str, Any] = {
            **ProcessRef.me().to_dict(),
            "home": home,
            "machine": machine,
            "space": _process_space(),
            "node": socket.gethostname(),
        }
        self._lock = threading.Lock()
        self._ours = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="name-claim", daemon=True)

    def take(self) -> None:
        """Claim the name; waits a few seconds for a claim that may have been left behind.

        Without Redis the claim stays open: `ensure` and the thread take it as soon as Redis is back. Raises
        HostAgentError if another agent has the name.
        """
        first: Claimant | None = None
        deadline = time.monotonic() + self._fresh + _RENEW_SECONDS
        while True:
            try:
                other = self._try()
            except FleetUnavailableError as error:
                logs.event(
                    logger, logging.WARNING, "name_unclaimed", f"{error}; it is claimed when Redis is back"
                )
                return
            if other is None:
                return
            if first is None or first.token != other.token:
                first = other
            # It renews: an agent is there. One that has ended renews nothing, and counts no more after a while.
            if other.at != first.at or time.monotonic() >= deadline:
                raise HostAgentError(self._taken(other))
            self._closing.wait(_LOOK_SECONDS)

    def ensure(self) -> None:
        """Raise unless the name is this agent's: HostAgentError if another has it, FleetUnavailableError if nobody can say.

        Asks Redis only while the claim is still open.
        """
        if self._ours:
            return
        other = self._try()
        if other is not None:
            raise HostAgentError(self._taken(other))

    def start(self) -> None:
        """Begin to renew the claim."""
        self._thread.start()

    def close(self) -> None:
        """Renew no more, and give the name up if Redis answers."""
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
        """Claim or renew; returns who else has the name."""
        with self._lock:
            other = self._names.claim(self._host, self._token, self._data)
            # One that has it while this agent was silent is not driven out again: they would take turns.
            if other is not None and not self._ours and self._has_ended(other):
                other = self._names.claim(self._host, self._token, self._data, replaces=other.token)
            if other is None:
                self._ours = True
            return other

    def _has_ended(self, other: Claimant) -> bool:
        """Say whether the other agent has provably ended."""
        theirs, mine = other.data, self._data
        if theirs.get("machine") != mine["machine"]:
            return False
        process = ProcessRef.from_dict(dict(theirs))
        if theirs.get("space") == mine["space"]:
            return process is not None and not process.alive()
        # In another container's process space a pid says nothing. But this process holds the lock of its own state
        # directory, which the system takes from the dead alone.
        return bool(theirs.get("home") == mine["home"])

    def _taken(self, other: Claimant) -> str:
        return (
            f"a host agent named {self._host} is alive already (pid {other.data.get('pid')} on {other.data.get('node')}, "
            f"state directory id {other.data.get('home')}): every host needs its own MANAGER_HOST; give this one another "
            "name, or stop the other one first"
        )


def _process_space() -> str:
    """Return what tells this process's view of other processes from another container's."""
    if sys.platform != "linux":
        return ""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return f"unknown-{os.getpid()}"
