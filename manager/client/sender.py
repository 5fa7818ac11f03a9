"""Commands sent: what is wanted is written down, each host gets its task, and one that is waited for answers."""

import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol

from celery.exceptions import TimeoutError as ResultTimeoutError

from manager import wire
from manager.client.caller import caller, note_sent
from manager.client.commands import AccountHosts, Command, spread, without_older_hosts, without_strangers
from manager.client.outcomes import settled
from manager.client.results import Answers, forget
from manager.errors import (
    CommandTimeoutError,
    FleetUnavailableError,
    HostUnavailableError,
    ManagerError,
    NoWorkerError,
)
from manager.fleet import FleetStore, HostState, safe_url
from manager.fleet.audit import AuditTrail
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.models import WorkerInfo
from manager.placement.engine import FleetView
from manager.states import LIVE, TradingMode, WorkerLifecycleStatus
from manager.versions import __version__

#: Seconds.
_START_EXPIRES: Final = 86_400

#: Seconds between two looks at a host that is waited for, and looks after which one that is silent is waited for no more.
_LOOK_SECONDS: Final = 2.0
_SILENT_LOOKS: Final = 3

_PRESENT: Final = LIVE | {WorkerLifecycleStatus.UNKNOWN}


def may_have_process(info: WorkerInfo | None) -> bool:
    """Say whether the account of this record may have a worker process; a silent host's worker counts."""
    return info is not None and info.status in _PRESENT


class AccountFiles(Protocol):
    """Which accounts have a file on this machine."""

    def has(self, account_id: str) -> bool: ...

    def any(self) -> bool:
        """Say whether any account has one."""


class Sender:
    """Sends commands and other tasks to the hosts of one fleet."""

    def __init__(
        self,
        app: Any,
        store: FleetStore,
        desired: DesiredStore,
        answers: Answers,
        audit: AuditTrail | None = None,
        account_files: AccountFiles | None = None,
    ) -> None:
        """`account_files` tells which accounts there are; without it every one is taken for an account."""
        self._audit = audit
        self._files = account_files
        self._app = app
        self._store = store
        self._desired = desired
        self._answers = answers

    @property
    def me(self) -> str:
        """Who asks, for the desired state and the audit trail."""
        return caller()

    def ask(self, command: Command, wait_seconds: float) -> Any:
        """Send a command and return its answer.

        Raises what the host raised, HostUnavailableError if there is nobody to do it, CommandTimeoutError if no answer
        came in time.
        """
        ready, refused = self.accept([command], doubted=True)
        for error in refused.values():
            raise error
        with self._answers.translated():
            result = self.signature(ready[0]).apply_async()
            note_sent()
            try:
                return self._answer(result, ready[0], wait_seconds)
            finally:
                forget(result)

    def knows(self, account_id: str) -> bool:
        """Say whether there may be such an account: by a worker's record, desired state, or its file here."""
        return self._store.get_worker(account_id) is not None or self._wanted_or_filed(account_id)

    def note_refusal(self, what: str, account_id: str, error: ManagerError, host: str = "") -> None:
        """Write into the audit trail that a command was refused before it was sent. Raises nothing."""
        if self._audit is not None:
            with suppress(FleetUnavailableError):
                self._audit.note(
                    what, by=self.me, host=host, account_id=account_id, outcome=error.code, text=str(error)
                )

    def accept(
        self, commands: Sequence[Command], *, doubted: bool = False
    ) -> tuple[list[Command], dict[str, ManagerError]]:
        """Write down what is wanted; returns the commands with their queues, and why there is nobody for the others.

        `doubted` is for a single account, which may be a misspelt one: if nothing here knows it, nothing is
        written down, and a host that knows it does that.

        Raises HostUnavailableError if no host is live, but writes stops down even then.
        """
        if not commands:
            return [], {}
        alone = len(commands) == 1
        hosts, workers = self._store.snapshot([commands[0].account_id] if alone else None)
        live = {host.name for host in hosts if host.live}
        # What changes an account where it is: it is written down even if nobody is there to do it.
        stopping = not commands[0].spec.starts
        if doubted and not workers and not self._wanted_or_filed(commands[0].account_id):
            unwritten = self._unwritten(commands[0], hosts)
            if unwritten is not None:
                return unwritten
        if not live and not stopping:
            error = self.nobody()
            for command in commands:
                self._note(command, error.code, str(error))
            raise error
        # Of one account, writing down what is wanted tells where it is; many are placed before.
        spreading = not (alone or stopping)
        places = self.places(workers, [c.account_id for c in commands]) if spreading else _recorded(workers)
        refused: dict[str, ManagerError] = {}
        if not stopping:
            asked = {command.account_id: command for command in commands}
            commands, strangers = without_strangers(commands, places, [host.facts for host in hosts])
            refused |= strangers
        if spreading:
            commands, homeless = spread(commands, places, self.view(hosts), live)
            refused |= homeless
        if commands and commands[0].spec.mode is not None:
            asked = {command.account_id: command for command in commands}
            commands, older = without_older_hosts(commands, places, hosts)
            refused |= older
        for account_id, why in refused.items():
            self._note(asked[account_id], why.code, str(why))
        return self._routed(self._written(commands), places, live, refused), refused

    def _routed(
        self,
        commands: Sequence[Command],
        places: AccountHosts,
        live: Collection[str],
        refused: dict[str, ManagerError],
    ) -> list[Command]:
        """Return written commands with their queues; add to `refused` those that no host can get now."""
        ready: list[Command] = []
        for command in commands:
            place, has_worker = places.get(command.account_id, ("", False))
            place = place if has_worker else command.host or place
            if command.queue or place in live:
                ready.append(replace(command, queue=command.queue or wire.host_queue(place)))
            elif not command.spec.starts and has_worker:
                refused[command.account_id] = HostUnavailableError(
                    f"{command.account_id}: host {place} is silent: the {command.name} is written down and happens when it is "
                    "back; until then its worker may trade"
                )
                self._leave(command, place, str(refused[command.account_id]))
            elif live:
                ready.append(command)
            else:
                refused[command.account_id] = nobody = self.nobody(f"{command.account_id}: ")
                self._note(command, nobody.code, str(nobody))
        return ready

    def places(self, workers: Sequence[WorkerInfo], account_ids: Sequence[str]) -> AccountHosts:
        """Return where each account has its worker, is wanted, or ran last, in this order."""
        recorded = _recorded(workers)
        desired = self._desired.read_many(account_ids)
        return (
            recorded
            | {account_id: (desired.host, False) for account_id, desired in desired.items() if desired.host}
            | {account_id: place for account_id, place in recorded.items() if place[1]}
        )

    def view(self, hosts: Sequence[HostState]) -> FleetView:
        """Return the fleet as placement sees it now."""
        snapshot = self._desired.snapshot()
        view = FleetView(host.facts for host in hosts)
        for desired in () if snapshot is None else snapshot.desired.values():
            if desired.running and desired.host:
                view.add(desired.placement_needs, desired.host)
        return view

    def signature(self, command: Command) -> Any:
        """Return the command's task, ready to be sent."""
        options: dict[str, Any] = {
            "queue": command.queue or wire.SHARED_QUEUE,
            "task_id": command.token,
            "headers": {**self._headers(), wire.GENERATION_HEADER: command.generation},
        }
        if command.spec.starts:
            # So that the queue of a dead host does not fill; what comes late changes nothing by its generation. Long,
            # because Celery compares the sender's clock with the host's. A stop never expires.
            options["expires"] = _START_EXPIRES
        return self._app.signature(
            command.spec.task, args=[command.account_id], kwargs=dict(command.kwargs), options=options
        )

    def send(self, task: str, argument: object, host: str) -> str:
        """Send a host a task that is no command; returns its id."""
        sent = self._app.send_task(
            task,
            args=[argument],
            queue=wire.host_queue(host),
            expires=_START_EXPIRES,
            headers=self._headers(),
        )
        forget(sent)
        return str(sent.id)

    def nobody(self, about: str = "") -> HostUnavailableError:
        """Return the error that says that no host is there."""
        return HostUnavailableError(
            f"{about}no host agent is alive on {safe_url(self._store.url)}: start one with `manager up` (this machine) "
            "or `manager host`"
        )

    # inside

    def _wanted_or_filed(self, account_id: str) -> bool:
        """Say whether something is desired of the account, or it has a file here.

        Redis comes first: no stop of an account that was ever asked to run waits for a disk.
        """
        if self._files is None or self._desired.read(account_id) is not None:
            return True
        return self._files.has(account_id)

    def _unwritten(
        self, command: Command, hosts: Sequence[HostState]
    ) -> tuple[list[Command], dict[str, ManagerError]] | None:
        """Return what becomes of a command of an account that nothing here knows; None: as of any other.

        A live host decides, as of a task from another service.
        """
        if any(host.live for host in hosts):
            return [command], {}
        if command.spec.starts or not hosts or self._files is None or not self._files.any():
            # Redis may have lost what it knew, or this machine has no account files: the stop is kept.
            return None
        unknown = NoWorkerError(
            f"{command.account_id}: no account file on this machine, no record of a worker, nothing desired: "
            "nothing was stopped or written down"
        )
        self._note(command, unknown.code, str(unknown))
        return [], {command.account_id: unknown}

    def _leave(self, command: Command, host: str, text: str) -> None:
        """Leave a stop in a silent host's queue: the host writes the outcome when it is back."""
        self._note(command, "pending", text, host)
        with self._answers.translated():
            forget(self.signature(replace(command, queue=wire.host_queue(host))).apply_async())

    def _note(self, command: Command, outcome: str, text: str, host: str = "") -> None:
        """Write what became of a command that no host has got."""
        if self._audit is not None:
            self._audit.note(
                command.name,
                by=self.me,
                host=host,
                account_id=command.account_id,
                command=command.token,
                outcome=outcome,
                text=text,
            )

    def _answer(self, result: Any, command: Command, wait_seconds: float) -> Any:
        deadline = time.monotonic() + wait_seconds
        host = wire.host_of_queue(command.queue)
        silent = 0
        while True:
            left = deadline - time.monotonic()
            try:
                return result.get(timeout=max(0.0, min(left, _LOOK_SECONDS)))
            except ResultTimeoutError:
                if left <= _LOOK_SECONDS:
                    why = f"no answer to {command.spec.task} within {wait_seconds:g} s (task {result.id})"
                elif host is not None and self._is_silent(host):
                    silent += 1
                    if silent < _SILENT_LOOKS:
                        continue
                    why = f"host {host}, which has it to do, has fallen silent"
                else:
                    silent = 0
                    continue
                recorded = self._recorded(command)
                if recorded is not None:
                    return recorded
                raise CommandTimeoutError(
                    f"{command.account_id}: {why}: it may still be carried out; `manager info {command.account_id}` shows "
                    "whether it was, `manager doctor` looks for the cause"
                ) from None

    def _recorded(self, command: Command) -> Any:
        """Return what the answer would be, if records show that the command was carried out; else None.

        A host that was given another name, or whose agent was killed, does what is desired. It answers no
        task of before.
        """
        account_id = command.account_id
        try:
            desired, info = self._desired.read(account_id), self._store.get_worker(account_id)
        except FleetUnavailableError:
            return None
        found = settled(command.name, command.generation or None, desired, info)
        if found is None or found[0] == "failed":
            return None
        return True if command.spec.state == "stopped" else found[1].to_wire()

    def _is_silent(self, host: str) -> bool:
        try:
            return not any(one.live for one in self._store.hosts() if one.name == host)
        except FleetUnavailableError:
            return False  # nobody can say; whoever waits goes on to

    def _headers(self) -> dict[str, Any]:
        return {wire.BY_HEADER: self.me, wire.VERSION_HEADER: __version__}

    def _written(self, commands: Sequence[Command]) -> list[Command]:
        """Write down what is desired; returns the commands with their generations, and where their accounts are."""
        mode = commands[0].spec.mode if commands else None
        if mode is not None:
            return [self._written_mode(command, mode) for command in commands]
        wishes = [
            DesiredStateRequest(
                account_id=command.account_id,
                state="running" if command.spec.starts else "stopped",
                token=command.token,
                by=self.me,
                why=command.name,
                restart=command.spec.restart,
                host=command.host,
                needs=command.needs,
                failover=command.failover,
                apply_defaults=command.kwargs.get("apply_defaults", True),
                validate=command.kwargs.get("validate", True),
                timeout=command.kwargs.get("timeout"),
            )
            for command in commands
        ]
        # Of many at once Redis is first asked whether it has the script; one does without that.
        one = len(wishes) == 1
        written = [self._desired.set_desired(wishes[0])] if one else self._desired.set_desired_many(wishes)
        return [
            replace(command, generation=generation, host=desired.host)
            for command, (generation, desired) in zip(commands, written, strict=True)
        ]

    def _written_mode(self, command: Command, mode: TradingMode) -> Command:
        desired = self._desired.set_mode(
            command.account_id, mode, token=command.token, by=self.me, what=command.name
        )
        # An account that never had a worker has no place: any host says so.
        return command if desired is None else replace(command, host=desired.host)


def _recorded(workers: Sequence[WorkerInfo]) -> dict[str, tuple[str, bool]]:
    return {info.account_id: (info.placement.host or "", may_have_process(info)) for info in workers}
