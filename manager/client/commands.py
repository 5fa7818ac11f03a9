"""Commands on their way to the hosts, and their answers sorted: what the sender needs beside Celery."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from manager import wire
from manager.client.caller import new_token
from manager.errors import HostUnavailableError, NoHostFitsError, NoWorkerError, VersionMismatchError
from manager.fleet import HostState
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.placement.engine import FleetView, HostFacts, Needs
from manager.pool.commands import CommandSpec
from manager.pool.protocol import Progress
from manager.versions import __version__, apart

#: Account → the host where it is or was, and whether it may have a worker there.
AccountHosts = Mapping[str, tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class Command:
    """A task for one account, and the desired state that it stands for."""

    spec: CommandSpec
    account_id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: What the audit trail and the desired state call it, where that is not the command's own name.
    why: str = ""
    host: str = ""
    queue: str = ""
    #: The task's id, by which a command that is delivered twice is one.
    token: str = ""
    #: What the account asks of its host; None: the host that gets the command finds out.
    needs: Needs | None = None
    failover: bool = False
    #: What it was given when it was written down.
    generation: int = 0

    def __post_init__(self) -> None:
        if not self.token:
            object.__setattr__(self, "token", new_token(self.spec.name, self.account_id))

    @property
    def name(self) -> str:
        return self.why or self.spec.name


class BatchOutcome:
    """A batch's accounts, each in one part of the result."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._parts: dict[str, dict[str, Any]] = {"done": {}, "already": {}, "skipped": {}, "failed": {}}

    def put(self, account_id: str, part: str, what: Any) -> None:
        self._parts[part][account_id] = what
        self.tell(account_id, part)

    def tell(self, account_id: str, part: str) -> None:
        """Tell who watches the batch."""
        if self._progress is not None:
            self._progress(account_id, part)

    def result(
        self, batch_id: str, pending: Mapping[str, str] | None = None, trouble: str = ""
    ) -> BatchResult:
        return BatchResult(**self._parts, pending=dict(pending or {}), batch_id=batch_id, trouble=trouble)


def spread(
    commands: Sequence[Command],
    places: AccountHosts,
    view: FleetView,
    live: set[str],
) -> tuple[list[Command], dict[str, HostUnavailableError]]:
    """Give each of many starts its host in one pass, and have those of one server not follow on each other.

    Returns the commands with their queues, and why there is no host for the others.
    """
    refused: dict[str, HostUnavailableError] = {}
    servers: dict[str, list[Command]] = {}
    # Those that few hosts fit come first: another could have their place while it has others to go to.
    for command in sorted(commands, key=_freedom):
        place, has_worker = places.get(command.account_id, ("", False))
        if command.needs is not None and not (has_worker and place in live):
            placement = view.place(command.needs, place or None)
            if placement.host is None:
                refused[command.account_id] = NoHostFitsError(placement.explain())
                continue
            view.add(command.needs, placement.host)
            host = placement.host
            command = replace(command, host=host, queue=wire.host_queue(host))  # noqa: PLW2901
        servers.setdefault(command.needs.server if command.needs is not None else "", []).append(command)
    rounds = zip_longest(*servers.values())
    return [command for row in rounds for command in row if command is not None], refused


def without_strangers(
    commands: Sequence[Command], places: AccountHosts, hosts: Sequence[HostFacts]
) -> tuple[list[Command], dict[str, HostUnavailableError]]:
    """Take out the starts that a live host would get whose version this one does not work with.

    One that has no place yet stays in if any live host could take it.
    """
    strangers = {host.name: host for host in hosts if host.live and not host.compatible}
    if not strangers:
        return list(commands), {}
    somebody = any(host.live and host.compatible for host in hosts)
    ready: list[Command] = []
    refused: dict[str, HostUnavailableError] = {}
    for command in commands:
        place = command.host or places.get(command.account_id, ("", False))[0]
        stranger = strangers.get(place) or (None if somebody else next(iter(strangers.values())))
        if stranger is None:
            ready.append(command)
        else:
            refused[command.account_id] = VersionMismatchError(
                f"{command.account_id}: host {stranger.name} and this manager do not work together: "
                f"{apart(stranger.version, __version__)}: bring the older one up to date"
            )
    return ready, refused


def without_older_hosts(
    commands: Sequence[Command], places: AccountHosts, hosts: Sequence[HostState]
) -> tuple[list[Command], dict[str, HostUnavailableError]]:
    """Take out the commands whose account is on a host of a version that does not know them, also a silent one."""
    known = {host.name: set(host.report.commands or ()) for host in hosts if host.live or host.data}
    versions = {host.name: host.report.version for host in hosts}
    ready: list[Command] = []
    refused: dict[str, HostUnavailableError] = {}
    for command in commands:
        place = places.get(command.account_id, ("", False))[0]
        if place in known and command.spec.name not in known[place]:
            refused[command.account_id] = VersionMismatchError(
                f"{command.account_id}: host {place} runs version {versions.get(place)}, which does not know "
                f"{command.spec.name}: bring it up to date; nothing was done"
            )
        else:
            ready.append(command)
    return ready, refused


def _freedom(command: Command) -> tuple[bool, int, int]:
    needs = command.needs
    return (True, 0, 0) if needs is None else (needs.pin is None, -len(needs.requires), -len(needs.avoid))


def started(account_id: str, outcome: Any) -> tuple[str, Any]:
    if isinstance(outcome, BaseException):
        return "failed", error_text(outcome)
    info = WorkerInfo.from_dict(outcome)
    return ("already" if info.placement.already_running else "done"), info


def changed(account_id: str, outcome: Any) -> tuple[str, Any]:
    """Sort the answer to a command that changes a trading mode."""
    if isinstance(outcome, NoWorkerError):
        return "skipped", str(outcome)
    if isinstance(outcome, BaseException):
        return "failed", error_text(outcome)
    return "done", WorkerInfo.from_dict(outcome)


def error_text(error: BaseException) -> str:
    return str(error) or type(error).__name__


class Unchecked(ValidationResult):
    """The answer for an account that no host has checked; its error says why."""


def unchecked(account_id: str, text: str) -> ValidationResult:
    return Unchecked(valid=False, account_id=account_id, errors=(text,))
