"""Stops that reach this host agent without Redis: over a control channel of this machine, or as notes that were left.

The channel's address and token are in a file of the state directory, mode 0600: who may read it may also kill the workers.
"""

import contextlib
import json
import logging
import os
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from manager.errors import ManagerError, NoWorkerError
from manager.fleet.desired import DesiredStateRequest
from manager.host.reconcile.reconciler import Reconciler
from manager.host.reconcile.stop_notes import PendingStops, StopNote
from manager.host.workers.pool import WorkerPoolManager
from manager.pool.arguments import check_account_id, check_timeout
from manager.session.control import ControlError, ControlServer, ask
from manager.system import atomic_file, logs
from manager.system.state_dir import StatePaths
from manager.system.storage import explain

logger = logging.getLogger(__name__)

#: Seconds between two looks for notes.
_LOOK_SECONDS: Final = 1.0
#: Seconds that a stop over the channel may take at most; the longest of all timeouts.
_LONGEST_SECONDS: Final = 86_400.0
#: Seconds in which an agent that is well answers a ping.
_PING_SECONDS: Final = 3.0

#: Writes an outcome to the audit trail: what, account, by, command, outcome, text.
Audit = Callable[[str, str, str, str, str, str], None]


class LocalControl:
    """The agent's end. `take_notes` before the reconciler starts, `start` and `close` once each."""

    def __init__(
        self,
        host: str,
        paths: StatePaths,
        pool: WorkerPoolManager,
        reconciler: Reconciler,
        pending_stops: PendingStops,
        audit: Audit,
    ) -> None:
        self._host = host
        self._paths = paths
        self._pool = pool
        self._reconciler = reconciler
        self._audit = audit
        self._pending_stops = pending_stops
        #: Called at each look for notes: the state directory may have been tidied.
        self.upkeep: Callable[[], None] = lambda: None
        self._token = secrets.token_hex(16)
        self._server: ControlServer | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        #: The channel's address and token, until they could be written down; and whether the log names what prevents it.
        self._unsaid: dict[str, str] | None = None
        self._told = False
        self._thread = threading.Thread(target=self._look, name="stop-notes", daemon=True)

    def start(self) -> None:
        """Listen. A channel that cannot be made is named in the log: commands through Redis do not need it."""
        try:
            self._server = ControlServer(_address(self._paths), self._token, self._handle)
        except OSError as error:
            logs.event(
                logger, logging.ERROR, "local_control_failed", explain(error, self._paths.agent_socket)
            )
        else:
            self._unsaid = {"address": self._server.address, "token": self._token}
            self._say_where()
        self._thread.start()

    def _say_where(self) -> None:
        """Write down how the channel is reached; tried again each second while the disk takes nothing."""
        if self._unsaid is None:
            return
        try:
            _write_private(self._paths.agent_control, self._unsaid)
        except OSError as error:
            if not self._told:
                self._told = True
                text = explain(error, self._paths.agent_control)
                logs.event(logger, logging.ERROR, "local_control_failed", text)
        else:
            self._unsaid = None

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()  # first: it makes again what is removed below
        if self._server is not None:
            self._server.close()
            for path in (self._paths.agent_control, self._paths.agent_socket):
                with contextlib.suppress(OSError):
                    path.unlink()

    def mend(self) -> None:
        """Listen again, and tell others where, if somebody has removed the channel's files. Raises OSError."""
        if self._server is not None and (self._server.restore() or not self._paths.agent_control.exists()):
            self._unsaid = {"address": self._server.address, "token": self._token}
            self._say_where()

    def take_notes(self) -> None:
        """Make every note desired state, and carry it out. A note goes once that is on disk elsewhere."""
        with self._lock:
            for note in self._pending_stops.untaken():
                self._take(note)
            if self._reconciler.desired_cache.saved:
                self._pending_stops.remove_taken()

    def _take(self, note: StopNote) -> None:
        change = DesiredStateRequest(
            account_id=note.account_id,
            state="stopped",
            token=note.token,
            by=note.by,
            why="stop",
            timeout=note.timeout,
        )
        done = self._reconciler.stop_locally(change, note.generation)
        self._reconciler.desired_cache.save()
        self._pending_stops.mark_taken(note)
        done.add_done_callback(lambda future: self._note_outcome(change, future))

    def _look(self) -> None:
        while not self._closing.wait(_LOOK_SECONDS):
            self.upkeep()
            try:
                self._say_where()
                self.take_notes()
            except Exception:
                logger.exception("stop notes could not be read")

    # the channel

    def _handle(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        operation = request.get("op")
        if operation == "ping":
            return {"ok": True, "host": self._host, "pid": os.getpid()}
        if operation == "stop":
            timeout = check_timeout(request.get("timeout"))
            accounts = request.get("accounts")
            if accounts is None:
                mine = {
                    one.account_id
                    for one in self._reconciler.desired_cache.running()
                    if one.host == self._host
                }
                accounts = sorted({*self._pool.queries.live_accounts(), *mine})
            if not isinstance(accounts, list):
                return {"ok": False, "error": "accounts is not a list"}
            by = str(request.get("by", "?"))[:200]
            return {
                "ok": True,
                "results": self._stop([check_account_id(one) for one in accounts], timeout, by),
            }
        return {"ok": False, "error": f"unknown operation {operation!r}; known: ping, stop"}

    def _stop(self, account_ids: list[str], timeout: float | None, by: str) -> dict[str, tuple[str, str]]:
        results: dict[str, tuple[str, str]] = {}
        under_way: dict[str, Future[bool]] = {}
        for account_id in account_ids:
            here = self._pool.queries.occupied(account_id)
            desired = self._reconciler.desired_cache.get(account_id)
            if not here and desired is not None and desired.host not in {"", self._host}:
                results[account_id] = ("elsewhere", f"host {desired.host} has it")
            elif not here and (desired is None or not desired.running):
                results[account_id] = ("already", "")
            else:
                change = DesiredStateRequest(
                    account_id=account_id,
                    state="stopped",
                    token=str(uuid4()),
                    by=by,
                    why="stop",
                    timeout=timeout,
                )
                under_way[account_id] = done = self._reconciler.stop_locally(change)
                done.add_done_callback(lambda future, change=change: self._note_outcome(change, future))  # type: ignore[misc]
        for account_id, future in under_way.items():
            try:
                future.result(_LONGEST_SECONDS)
            except NoWorkerError:
                results[account_id] = ("already", "")
            except (ManagerError, FutureTimeoutError) as error:
                results[account_id] = ("failed", str(error))
            else:
                info = self._pool.get_worker_info(account_id)
                results[account_id] = ("stopped", (info.error if info is not None else None) or "")
        self._reconciler.desired_cache.save()
        if not self._reconciler.desired_cache.saved:
            self._name_unsaved(results)
        return results

    def _name_unsaved(self, results: dict[str, tuple[str, str]]) -> None:
        """Say of each stop that the next host agent would not know of: on a read-only disk, while Redis is away."""
        self._reconciler.desired_cache.read()  # tells Redis, if it is there
        for account_id, (outcome, _) in results.items():
            desired = self._reconciler.desired_cache.get(account_id)
            if (
                outcome != "stopped"
                or desired is None
                or self._reconciler.desired_cache.outlasts_restart(desired)
            ):
                continue
            text = (
                "no process is left, but the stop could not be saved: the host agent starts the account again if it is "
                f"restarted before Redis has the stop. {self._reconciler.desired_cache.trouble}"
            )
            logs.event(logger, logging.ERROR, "local_stop_unsaved", text, account=account_id)
            results[account_id] = ("failed", text)

    def _note_outcome(self, change: DesiredStateRequest, done: "Future[bool]") -> None:
        error = done.exception()
        # Without a worker there was nothing left to stop: the command has what it asked for.
        outcome = (
            "ok" if error is None or isinstance(error, NoWorkerError) else getattr(error, "code", "crashed")
        )
        text = "on its machine, without Redis" if outcome == "ok" else str(error)
        self._audit("stop", change.account_id, change.by, change.token, outcome, text)


@dataclass(frozen=True, slots=True)
class AgentChannel:
    """The other end: how a command on this machine reaches the agent."""

    address: str
    token: str
    pid: int

    @classmethod
    def find(cls, paths: StatePaths) -> "AgentChannel | None":
        """Return the channel of the agent that runs on this state directory and answers; None if none does."""
        try:
            data = json.loads(paths.agent_control.read_text())
            address, token = str(data["address"]), str(data["token"])
            answer = ask(address, token, {"op": "ping"}, timeout=_PING_SECONDS)
            return cls(address, token, int(answer["pid"]))
        except (OSError, ValueError, KeyError, TypeError, ControlError):
            return None

    def stop(
        self, account_ids: list[str] | None, timeout: float | None, by: str, *, wait_seconds: float
    ) -> dict[str, tuple[str, str]]:
        """Have accounts (None: all of this host) stopped: account → (`stopped`, `already`, `elsewhere` or `failed`, why).

        Raises ControlError if the agent does not answer within `wait_seconds`.
        """
        request = {"op": "stop", "accounts": account_ids, "timeout": timeout, "by": by}
        answer = ask(self.address, self.token, request, timeout=wait_seconds)
        if not answer.get("ok"):
            raise ControlError(str(answer.get("error")))
        return {str(key): (str(value[0]), str(value[1])) for key, value in answer["results"].items()}


def _address(paths: StatePaths) -> str:
    if sys.platform == "win32":
        return rf"\\.\pipe\worker-manager-agent-{paths.home}"
    with contextlib.suppress(FileNotFoundError):
        paths.agent_socket.unlink()  # of an agent that was killed; the lock proves that none runs
    return str(paths.agent_socket)


def _write_private(path: Path, data: Mapping[str, str]) -> None:
    text = json.dumps(data)
    try:
        atomic_file.write(path, text)
    except OSError:
        # A full disk has room for what the agent before this one left there; a reader of half of it reads nothing.
        with os.fdopen(os.open(path, os.O_WRONLY), "w") as file:
            file.write(text)
            file.flush()
            file.truncate()
