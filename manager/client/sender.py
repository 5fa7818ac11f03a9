"""Sends commands: writes desired state, sends tasks, awaits results."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol

from manager import wire
from manager.client.answers import CommandAnswers
from manager.client.caller import caller, note_sent
from manager.client.commands import (
    AccountHosts,
    Command,
    place_starts,
    refuse_incompatible_hosts,
    refuse_unknown_commands,
)
from manager.client.results import TaskResults, forget
from manager.errors import (
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

#: Seconds after which a task that starts a worker expires.
_START_EXPIRES: Final = 86_400

_PRESENT: Final = LIVE | {WorkerLifecycleStatus.UNKNOWN}


def may_have_process(info: WorkerInfo | None) -> bool:
    """Return whether a worker may have a process, also one on a silent host."""
    return info is not None and info.status in _PRESENT


class AccountFiles(Protocol):
    """The accounts that have a file on this machine."""

    def has(self, account_id: str) -> bool: ...

    def any(self) -> bool:
        """Return whether any account has a file."""


class Sender:
    """Sends commands and other tasks to the hosts of one fleet."""

    def __init__(
        self,
        app: Any,
        store: FleetStore,
        desired: DesiredStore,
        results: TaskResults,
        audit: AuditTrail | None = None,
        account_files: AccountFiles | None = None,
    ) -> None:
        """Without `account_files`, every account id counts as known."""
        self._audit = audit
        self._files = account_files
        self._app = app
        self._store = store
        self._desired = desired
        self._results = results
        self._answers = CommandAnswers(store, desired)

    @property
    def me(self) -> str:
        """The sender's name, for the desired state and the audit trail."""
        return caller()

    def ask(self, command: Command, wait_seconds: float) -> Any:
        """Send a command; block until its result arrives, and return it.

        Raises:
            HostUnavailableError: no live host can carry it out.
            CommandTimeoutError: no result arrived within `wait_seconds`; it may still be carried out.
            ManagerError: what the host raised.
        """
        ready, refused = self.accept([command], may_be_misspelt=True)
        for error in refused.values():
            raise error
        with self._results.translated():
            result = self.signature(ready[0]).apply_async()
            note_sent()
            try:
                return self._answers.wait(result, ready[0], wait_seconds)
            finally:
                forget(result)

    def knows(self, account_id: str) -> bool:
        """Return whether the account is known here.

        It is if it has a worker's record, desired state, or a file on this machine.
        """
        return self._store.get_worker(account_id) is not None or self._is_desired_or_filed(account_id)

    def note_refusal(self, what: str, account_id: str, error: ManagerError, host: str = "") -> None:
        """Record in the audit trail that a command was refused before it was sent.

        Raises nothing.
        """
        if self._audit is not None:
            with suppress(FleetUnavailableError):
                self._audit.note(
                    what, by=self.me, host=host, account_id=account_id, outcome=error.code, text=str(error)
                )

    def accept(
        self, commands: Sequence[Command], *, may_be_misspelt: bool = False
    ) -> tuple[list[Command], dict[str, ManagerError]]:
        """Write the commands' desired state.

        Returns the commands that can be sent, with their queues, and errors for the others. `may_be_misspelt`
        is for a single account: if this machine does not know it, the host that does writes its desired
        state.

        Raises HostUnavailableError if no host is live. The desired state of commands that start nothing is
        written even then.
        """
        if not commands:
            return [], {}
        alone = len(commands) == 1
        hosts, workers = self._store.snapshot([commands[0].account_id] if alone else None)
        live = {host.name for host in hosts if host.live}
        # Stops and mode changes are written even if no host is live: they apply once the host is back.
        stopping = not commands[0].spec.starts
        if may_be_misspelt and not workers and not self._is_desired_or_filed(commands[0].account_id):
            unwritten = self._unwritten(commands[0], hosts)
            if unwritten is not None:
                return unwritten
        if not live and not stopping:
            error = self.no_live_host()
            for command in commands:
                self._note(command, error.code, str(error))
            raise error
        # Writing the desired state of one account returns its host. Many starts are placed before that.
        placing = not (alone or stopping)
        account_ids = [command.account_id for command in commands]
        account_hosts = self.account_hosts(workers, account_ids) if placing else _recorded_hosts(workers)
        refused: dict[str, ManagerError] = {}
        if not stopping:
            asked = {command.account_id: command for command in commands}
            facts = [host.facts for host in hosts]
            commands, incompatible = refuse_incompatible_hosts(commands, account_hosts, facts)
            refused |= incompatible
        if placing:
            commands, unplaced = place_starts(commands, account_hosts, self.fleet_view(hosts), live)
            refused |= unplaced
        if commands and commands[0].spec.mode is not None:
            asked = {command.account_id: command for command in commands}
            commands, unknown = refuse_unknown_commands(commands, account_hosts, hosts)
            refused |= unknown
        for account_id, why in refused.items():
            self._note(asked[account_id], why.code, str(why))
        return self._routed(self._with_desired(commands), account_hosts, live, refused), refused

    def _routed(
        self,
        commands: Sequence[Command],
        account_hosts: AccountHosts,
        live: Collection[str],
        refused: dict[str, ManagerError],
    ) -> list[Command]:
        """Return the commands with their queues.

        Adds to `refused` those that no host can receive now.
        """
        ready: list[Command] = []
        for command in commands:
            host, has_worker = account_hosts.get(command.account_id, ("", False))
            host = host if has_worker else command.host or host
            if command.queue or host in live:
                ready.append(replace(command, queue=command.queue or wire.host_queue(host)))
            elif not command.spec.starts and has_worker:
                refused[command.account_id] = HostUnavailableError(
                    f"{command.account_id}: host {host} is silent: the {command.name} is written down and "
                    "happens when it is back; until then its worker may trade"
                )
                self._queue_for_silent(command, host, str(refused[command.account_id]))
            elif live:
                ready.append(command)
            else:
                refused[command.account_id] = error = self.no_live_host(f"{command.account_id}: ")
                self._note(command, error.code, str(error))
        return ready

    def account_hosts(self, workers: Sequence[WorkerInfo], account_ids: Sequence[str]) -> AccountHosts:
        """Return each account's host.

        That is its worker's host, else its desired state's, else the one where it ran last.
        """
        recorded = _recorded_hosts(workers)
        desired = self._desired.read_many(account_ids)
        return (
            recorded
            | {account_id: (desired.host, False) for account_id, desired in desired.items() if desired.host}
            | {account_id: host for account_id, host in recorded.items() if host[1]}
        )

    def fleet_view(self, hosts: Sequence[HostState]) -> FleetView:
        """Return the hosts and the accounts that should run on them."""
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
            # Keeps the queue of a dead host from filling. Not for correctness: the generation makes a late
            # start harmless. A day, because Celery compares the sender's clock with the host's. A stop never
            # expires.
            options["expires"] = _START_EXPIRES
        return self._app.signature(
            command.spec.task, args=[command.account_id], kwargs=dict(command.kwargs), options=options
        )

    def send(self, task: str, argument: object, host: str) -> str:
        """Send a host a task that is not a command; return the task's id."""
        sent = self._app.send_task(
            task,
            args=[argument],
            queue=wire.host_queue(host),
            expires=_START_EXPIRES,
            headers=self._headers(),
        )
        forget(sent)
        return str(sent.id)

    def no_live_host(self, about: str = "") -> HostUnavailableError:
        """Return the error for a fleet without a live host.

        `about` begins its text.
        """
        return HostUnavailableError(
            f"{about}no host agent is alive on {safe_url(self._store.url)}: start one with `manager up` "
            "(this machine) or `manager host`"
        )

    # inside

    def _is_desired_or_filed(self, account_id: str) -> bool:
        """Return whether the account has desired state, or a file on this machine.

        Checks Redis first: the stop of a known account must not wait for a slow disk.
        """
        if self._files is None or self._desired.read(account_id) is not None:
            return True
        return self._files.has(account_id)

    def _unwritten(
        self, command: Command, hosts: Sequence[HostState]
    ) -> tuple[list[Command], dict[str, ManagerError]] | None:
        """Return the result of `accept` for an account unknown to this machine.

        Returns None to write it as usual. If any host is live, the command is sent unwritten and the host
        decides, as for a task of another service.
        """
        if any(host.live for host in hosts):
            return [command], {}
        if command.spec.starts or not hosts or self._files is None or not self._files.any():
            # Redis may have lost the account's records, or this machine has no account files: keep the stop.
            return None
        unknown = NoWorkerError(
            f"{command.account_id}: no account file on this machine, no record of a worker, nothing desired: "
            "nothing was stopped or written down"
        )
        self._note(command, unknown.code, str(unknown))
        return [], {command.account_id: unknown}

    def _queue_for_silent(self, command: Command, host: str, text: str) -> None:
        """Put a command into a silent host's queue.

        The host records its outcome when it is back.
        """
        self._note(command, "pending", text, host)
        with self._results.translated():
            forget(self.signature(replace(command, queue=wire.host_queue(host))).apply_async())

    def _note(self, command: Command, outcome: str, text: str, host: str = "") -> None:
        """Record the outcome of a command that no host received.

        Writes to the audit trail.
        """
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

    def _headers(self) -> dict[str, Any]:
        return {wire.BY_HEADER: self.me, wire.VERSION_HEADER: __version__}

    def _with_desired(self, commands: Sequence[Command]) -> list[Command]:
        """Write the commands' desired state.

        Returns them with their generations and their accounts' hosts.
        """
        mode = commands[0].spec.mode if commands else None
        if mode is not None:
            return [self._with_mode(command, mode) for command in commands]
        changes = [
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
        # A pipeline first checks that Redis has the script: a single change saves that round trip.
        one = len(changes) == 1
        written = [self._desired.set_desired(changes[0])] if one else self._desired.set_desired_many(changes)
        return [
            replace(command, generation=generation, host=desired.host)
            for command, (generation, desired) in zip(commands, written, strict=True)
        ]

    def _with_mode(self, command: Command, mode: TradingMode) -> Command:
        desired = self._desired.set_mode(
            command.account_id, mode, token=command.token, by=self.me, what=command.name
        )
        # An account without desired state has no host: any host can refuse the command.
        return command if desired is None else replace(command, host=desired.host)


def _recorded_hosts(workers: Sequence[WorkerInfo]) -> dict[str, tuple[str, bool]]:
    return {info.account_id: (info.placement.host or "", may_have_process(info)) for info in workers}
