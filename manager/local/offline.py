"""Commands with `--local`, which use local sockets instead of Redis."""

import signal
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final, Literal
from uuid import uuid4

from manager.client.caller import caller
from manager.errors import AccountNotFoundError
from manager.fleet.desired import STOP, DesiredState
from manager.fleet.timestamped import Timestamped
from manager.fleet.workers import observe
from manager.host.local_control import AgentChannel
from manager.host.reconcile.desired_state_file import DesiredStateFile
from manager.host.reconcile.stop_notes import StopNote, StopNotes
from manager.host.workers.orphans import end_orphans
from manager.host.workers.records import RecordFiles, WorkerRecord
from manager.models import WorkerInfo
from manager.session.control import ControlError, ask
from manager.session.heartbeat_file import read_heartbeat
from manager.settings import Settings
from manager.states import WorkerLifecycleStatus
from manager.system.file_lock import FileLock
from manager.system.state_dir import StatePaths
from manager.system.storage import explain

#: Share of the stop timeout before SIGTERM. The request through the control socket has this time; SIGTERM has
#: the rest, and SIGKILL follows at the deadline.
_REQUEST_SHARE: Final = 0.7
#: Seconds in which a killed process must end.
_KILL_SECONDS: Final = 5.0
#: Seconds that an agent has to answer, beyond the longest stop.
_AGENT_MARGIN: Final = 20.0
#: Seconds in which an agent that did not answer may still take the stop note.
_NOTE_SECONDS: Final = 5.0
#: Stops that run at the same time.
_PARALLEL_STOPS: Final = 64

Outcome = Literal["stopped", "already", "failed"]


@dataclass(frozen=True, slots=True)
class LocalStop:
    """The outcome of a stop on this machine."""

    account_id: str
    outcome: Outcome
    #: Details; for a failure, the reason and what to do.
    text: str = ""


def local_workers(settings: Settings) -> list[WorkerInfo]:
    """Return this machine's workers, from their records and heartbeat files."""
    paths = StatePaths(settings.state_dir)
    return [
        _worker_info(record, settings, paths)
        for record in sorted(RecordFiles(paths.workers_dir).load_all(), key=lambda one: one.account_id)
    ]


def stop_here(
    settings: Settings, account_ids: Iterable[str] | None, timeout: float | None, known: Sequence[str] = ()
) -> list[LocalStop]:
    """Stop the workers of `account_ids`, or all, on this machine without Redis.

    If a host agent answers, it stops them and saves the desired state. Otherwise this process stops them and
    leaves stop notes, which the next agent obeys before it starts anything. `known` are the accounts that
    have a file.

    Blocks until every process has ended, or could not be ended. Raises AccountNotFoundError for an account
    that has neither a file nor a worker here.
    """
    return _LocalStops(settings, timeout).run(None if account_ids is None else list(account_ids), known)


class _LocalStops:
    def __init__(self, settings: Settings, timeout: float | None) -> None:
        self._timeout = timeout
        self._host = settings.host
        self._paths = StatePaths(settings.state_dir)
        self._records = {one.account_id: one for one in RecordFiles(self._paths.workers_dir).load_all()}
        self._remembered, _ = DesiredStateFile(self._paths.root / "desired.json").load()
        self._lock = FileLock(self._paths.agent_lock)
        self._notes = StopNotes(self._paths.stops_dir)

    def run(self, account_ids: list[str] | None, known: Sequence[str]) -> list[LocalStop]:
        for account_id in account_ids or ():
            if account_id not in {*self._records, *self._remembered, *known}:
                raise AccountNotFoundError(
                    f"{account_id}: no account file and no worker on this "
                    f"machine{_similar(account_id, known)}"
                )
        mine = [one.account_id for one in self._remembered.values() if one.running and one.host == self._host]
        here = {*self._records, *mine}
        chosen = sorted(here if account_ids is None else dict.fromkeys(account_ids))
        agent = AgentChannel.find(self._paths)
        if agent is not None:
            answers = self._ask_agent(agent, None if account_ids is None else chosen)
            if answers is not None:
                return [self._verified(account_id, *answers[account_id]) for account_id in sorted(answers)]
        return self._without_agent(chosen, here)

    # with an agent

    def _ask_agent(self, agent: AgentChannel, chosen: list[str] | None) -> dict[str, tuple[str, str]] | None:
        seconds = [one.stop_timeout_seconds for one in self._records.values()]
        longest = max(seconds, default=30.0) if self._timeout is None else self._timeout
        try:
            return agent.stop(chosen, self._timeout, caller(), wait_seconds=longest + _AGENT_MARGIN)
        except ControlError:
            return None

    def _verified(self, account_id: str, outcome: str, text: str) -> LocalStop:
        record = self._records.get(account_id)
        if outcome in ("stopped", "already") and record is not None and record.process.alive():
            return LocalStop(
                account_id,
                "failed",
                f"the host agent reports {outcome}, but process {record.process.pid} still runs: kill that "
                "process",
            )
        if outcome == "stopped":
            return LocalStop(account_id, "stopped", text)
        if outcome in ("already", "elsewhere"):
            return LocalStop(account_id, "already", text)
        return LocalStop(account_id, "failed", text)

    # without an agent

    def _without_agent(self, chosen: list[str], here: set[str]) -> list[LocalStop]:
        others = [LocalStop(one, "already", self._elsewhere(one)) for one in chosen if one not in here]
        mine = [one for one in chosen if one in here]
        # Before any stop: an agent that starts or continues meanwhile must not restart a worker that we stop.
        unwritten = {account_id: why for account_id in mine if (why := self._write_note(account_id))}
        with ThreadPoolExecutor(_PARALLEL_STOPS, thread_name_prefix="stop") as threads:
            stops = list(threads.map(self._stop_one, mine))
        return sorted(others + self._after_agent(stops, unwritten), key=lambda one: one.account_id)

    def _elsewhere(self, account_id: str) -> str:
        desired = self._remembered.get(account_id)
        if desired is None or not desired.running or desired.host in {"", self._host}:
            return ""
        return f"it runs on host {desired.host}"

    def _write_note(self, account_id: str) -> str | None:
        """Write a stop note for the next agent; return the error text, or None."""
        desired, record = self._remembered.get(account_id), self._records.get(account_id)
        known = [desired.generation] if desired is not None else []
        known += [record.generation] if record is not None else []
        note = StopNote(
            account_id=account_id,
            token=str(uuid4()),
            by=caller(),
            generation=max(int(time.time() * 1000), *(one + 1 for one in known)),
            timeout=self._timeout,
        )
        try:
            self._notes.write(note)
        except OSError as error:
            return None if self._save_stop(note) else explain(error, self._paths.stops_dir)
        return None

    def _save_stop(self, note: StopNote) -> bool:
        """Save the stop in the reserved space of the desired state file.

        For a disk that is too full for a stop note. Returns False if that fails too, or if a host agent runs,
        because then only the agent writes that file.
        """
        try:
            if not self._lock.acquire():
                return False
        except OSError:
            return False
        try:
            file = DesiredStateFile(self._paths.root / "desired.json")
            known, uncertain = file.load()
            before = known.get(note.account_id)
            stopped = DesiredState(
                account_id=note.account_id, state="stopped", generation=note.generation, host=self._host
            )
            known[note.account_id] = replace(
                before or stopped,
                state="stopped",
                generation=note.generation,
                by=note.by,
                why=STOP,
                timeout=note.timeout,
                at=note.generation,
            )
            file.save(known.values(), uncertain)
            return file.safe
        finally:
            self._lock.release()

    def _stop_one(self, account_id: str) -> LocalStop:
        record = self._records.get(account_id)
        if record is None:
            return LocalStop(account_id, "already", "it had no worker yet, and will not be started")
        was_alive = record.process.alive()
        forced = _end(record, self._timeout) if was_alive else ""
        if record.process.alive():
            text = f"process {record.process.pid} still exists after SIGKILL, so the account may still trade"
            return LocalStop(account_id, "failed", f"{text}: check this machine for a hung disk or driver")
        left = end_orphans(record)
        if left:
            return LocalStop(
                account_id,
                "failed",
                "its worker has ended, but processes of its program may still trade: "
                f"{', '.join(left)}: kill these processes",
            )
        # The record stays, because the next agent needs it to release the account's lease.
        return LocalStop(account_id, "stopped" if was_alive else "already", forced)

    def _after_agent(self, stops: list[LocalStop], unwritten: dict[str, str]) -> list[LocalStop]:
        """Turn stops into failures if an agent may restart the account.

        That is an agent that did not answer, or the next one if the stop could not be saved.
        """
        pid = self._lock.holder()
        agent = self._lock.held()
        deadline = time.monotonic() + (_NOTE_SECONDS if agent else 0.0)
        results: list[LocalStop] = []
        for stop in stops:
            account_id = stop.account_id
            while agent and self._notes.read(account_id) is not None and time.monotonic() < deadline:
                time.sleep(0.1)
            if stop.outcome == "failed":
                results.append(stop)
            elif agent and (account_id in unwritten or self._notes.read(account_id) is not None):
                text = (
                    f"no process is left, but the host agent (pid {pid}) does not answer and may restart "
                    "the account: stop that agent, then repeat this command"
                )
                results.append(LocalStop(account_id, "failed", text))
            elif account_id in unwritten:
                text = (
                    f"no process is left, but {unwritten[account_id]}. The next host agent will start the "
                    f"account: before you start one, run `manager stop {account_id}` with Redis"
                )
                results.append(LocalStop(account_id, "failed", text))
            else:
                results.append(stop)
        return results


def _end(record: WorkerRecord, timeout: float | None) -> str:
    """Stop the worker, and kill it at the deadline.

    `timeout` is in seconds; None means the account's own. Returns empty text, or what to report after a kill.
    """
    seconds = record.stop_timeout_seconds if timeout is None else timeout
    deadline = time.monotonic() + seconds
    request_seconds = seconds * _REQUEST_SHARE
    try:
        if seconds > 0:
            request = {"op": "stop", "seconds": request_seconds, "reason": "a stop on its machine (--local)"}
            ask(record.control_address, record.control_token, request, timeout=min(2.0, request_seconds))
    except ControlError:
        record.process.signal(signal.SIGTERM)  # a signal may arrive although the control socket fails
    if record.process.wait(request_seconds):
        return ""
    record.process.signal(signal.SIGTERM)
    if record.process.wait(max(0.0, deadline - time.monotonic())):
        return ""
    record.process.kill()
    record.process.wait(_KILL_SECONDS)
    return (
        f"it did not stop within {seconds:g} s and was killed: check its orders and positions at the broker"
    )


def _worker_info(record: WorkerRecord, settings: Settings, paths: StatePaths) -> WorkerInfo:
    pulse = read_heartbeat(record.beat_file)
    alive = record.process.alive()
    phase = None if pulse is None else pulse.status.get("phase")
    status = WorkerLifecycleStatus.RUNNING
    if not alive:
        status = WorkerLifecycleStatus.FAILED
    elif phase in (None, "connecting"):
        status = WorkerLifecycleStatus.STARTING
    elif phase == "stopping":
        status = WorkerLifecycleStatus.STOPPING
    info = WorkerInfo(
        worker_id=record.worker_id,
        account_id=record.account_id,
        status=status,
        created_at=record.created_at,
        started_at=record.created_at,
        groups=record.groups,
        labels=record.labels,
        error=None if alive else "its process has ended, but no host agent has noticed it yet",
        metadata=record.placement(settings.host, paths.worker_log(record.account_id)).to_dict(),
    )
    if pulse is None:
        return info
    data = {key: value for key, value in pulse.status.items() if key != "phase"}
    data |= {"call": pulse.call, "worker_id": record.worker_id}
    return observe(info, Timestamped(pulse.age_seconds, data), True, settings.stale_after_seconds)


def _similar(account_id: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(account_id, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; `manager ps --local` lists the workers here"
