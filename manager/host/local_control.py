"""Stops that reach this host agent without Redis.

They come over a control channel of this machine, or as stop notes. The channel's address and token are in a
file of the state directory with mode 0600. A user who can read that file can also kill the workers.
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

#: Seconds between two checks for notes.
_CHECK_SECONDS: Final = 1.0
#: Seconds that a stop over the channel may take: the longest timeout that a command accepts.
_MAX_STOP_SECONDS: Final = 86_400.0
#: Seconds in which a healthy agent answers a ping.
_PING_SECONDS: Final = 3.0

#: Writes an outcome to the audit trail: command name, account, user, token, outcome, text.
Audit = Callable[[str, str, str, str, str, str], None]


class LocalControl:
    """The agent's end of the channel.

    `take_notes` before the reconciler starts; `start` and `close` once each.
    """

    def __init__(
        self,
        host: str,
        paths: StatePaths,
        pool: WorkerPoolManager,
        reconciler: Reconciler,
        pending_stops: PendingStops,
        audit: Audit,
        check_state_dir: Callable[[], None] = lambda: None,
    ) -> None:
        """Prepare, without opening the channel.

        `check_state_dir` restores deleted files; it is called with each check for notes and raises nothing.
        """
        self._host = host
        self._paths = paths
        self._pool = pool
        self._reconciler = reconciler
        self._audit = audit
        self._pending_stops = pending_stops
        self._check_state_dir = check_state_dir
        self._token = secrets.token_hex(16)
        self._server: ControlServer | None = None
        self._closing = threading.Event()
        self._lock = threading.Lock()
        #: The channel's address and token until they are in the file, and whether a failure to write it is in
        #: the log.
        self._unwritten: dict[str, str] | None = None
        self._failure_logged = False
        self._thread = threading.Thread(target=self._run, name="stop-notes", daemon=True)

    def start(self) -> None:
        """Open the channel.

        A failure is only logged: commands through Redis do not need the channel.
        """
        try:
            self._server = ControlServer(_address(self._paths), self._token, self._handle)
        except OSError as error:
            logs.event(
                logger, logging.ERROR, "local_control_failed", explain(error, self._paths.agent_socket)
            )
        else:
            self._unwritten = {"address": self._server.address, "token": self._token}
            self._write_address()
        self._thread.start()

    def _write_address(self) -> None:
        """Write the channel's address and token.

        While the disk is full this is tried again each second.
        """
        if self._unwritten is None:
            return
        try:
            _write_private(self._paths.agent_control, self._unwritten)
        except OSError as error:
            if not self._failure_logged:
                self._failure_logged = True
                text = explain(error, self._paths.agent_control)
                logs.event(logger, logging.ERROR, "local_control_failed", text)
        else:
            self._unwritten = None

    def close(self) -> None:
        """Close the channel and remove its files.

        Blocks until a check for notes has ended.
        """
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()  # first: the thread restores the files that are removed below
        if self._server is not None:
            self._server.close()
            for path in (self._paths.agent_control, self._paths.agent_socket):
                with contextlib.suppress(OSError):
                    path.unlink()

    def restore_files(self) -> None:
        """Open the channel again if its files were deleted.

        Raises OSError.
        """
        if self._server is not None and (self._server.restore() or not self._paths.agent_control.exists()):
            self._unwritten = {"address": self._server.address, "token": self._token}
            self._write_address()

    def take_notes(self) -> None:
        """Make every note desired state and begin its stop.

        Notes are removed once that state is saved.
        """
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

    def _run(self) -> None:
        while not self._closing.wait(_CHECK_SECONDS):
            self._check_state_dir()
            try:
                self._write_address()
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
                future.result(_MAX_STOP_SECONDS)
            except NoWorkerError:
                results[account_id] = ("already", "")
            except (ManagerError, FutureTimeoutError) as error:
                results[account_id] = ("failed", str(error))
            else:
                info = self._pool.get_worker_info(account_id)
                results[account_id] = ("stopped", (info.error if info is not None else None) or "")
        self._reconciler.desired_cache.save()
        if not self._reconciler.desired_cache.saved:
            self._mark_unsaved(results)
        return results

    def _mark_unsaved(self, results: dict[str, tuple[str, str]]) -> None:
        """Mark each stop as failed that the next host agent would not know.

        That happens on a read-only disk while Redis is down.
        """
        self._reconciler.desired_cache.read()  # writes it to Redis, if that is up
        for account_id, (outcome, _) in results.items():
            desired = self._reconciler.desired_cache.get(account_id)
            if (
                outcome != "stopped"
                or desired is None
                or self._reconciler.desired_cache.outlasts_restart(desired)
            ):
                continue
            text = (
                "its process has ended, but the stop could not be saved: the host agent starts the account "
                "again if it is restarted before Redis has the stop. "
                f"{self._reconciler.desired_cache.trouble}"
            )
            logs.event(logger, logging.ERROR, "local_stop_unsaved", text, account=account_id)
            results[account_id] = ("failed", text)

    def _note_outcome(self, change: DesiredStateRequest, done: "Future[bool]") -> None:
        error = done.exception()
        # Without a worker there is nothing to stop, so the command has succeeded.
        outcome = (
            "ok" if error is None or isinstance(error, NoWorkerError) else getattr(error, "code", "crashed")
        )
        text = "on its machine, without Redis" if outcome == "ok" else str(error)
        self._audit("stop", change.account_id, change.by, change.token, outcome, text)


@dataclass(frozen=True, slots=True)
class AgentChannel:
    """The client's end: how a command on this machine reaches the agent."""

    address: str
    token: str
    pid: int

    @classmethod
    def find(cls, paths: StatePaths) -> "AgentChannel | None":
        """Return the channel of the agent on this state directory.

        None if no agent answers a ping.
        """
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
        """Stop accounts (None: all of this host) and wait.

        Returns each account's outcome and its reason. Outcomes: `stopped`, `already` (it had no worker),
        `elsewhere` (another host has it), `failed`. Raises ControlError if the agent does not answer within
        `wait_seconds`.
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
        paths.agent_socket.unlink()  # left by an agent that was killed: the lock proves that none runs
    return str(paths.agent_socket)


def _write_private(path: Path, data: Mapping[str, str]) -> None:
    text = json.dumps(data)
    try:
        atomic_file.write(path, text)
    except OSError:
        # On a full disk the previous agent's file can still be overwritten. A reader rejects one that is half
        # written.
        with os.fdopen(os.open(path, os.O_WRONLY), "w") as file:
            file.write(text)
            file.flush()
            file.truncate()
