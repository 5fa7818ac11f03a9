"""Commands, their placement on hosts, and the outcomes of their tasks.

No I/O.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from manager import wire
from manager.client.caller import new_token
from manager.errors import HostUnavailableError, NoHostFitsError, NoWorkerError, VersionMismatchError
from manager.fleet import HostState
from manager.models import BatchResult, ValidationResult, WorkerInfo, start_part
from manager.placement.engine import FleetView, HostFacts, Needs
from manager.pool.commands import CommandSpec
from manager.pool.protocol import Progress
from manager.versions import __version__, apart

#: Account → its present or last host, and whether it may have a worker process there.
AccountHosts = Mapping[str, tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class Command:
    """A command for one account: its task and its change of desired state."""

    spec: CommandSpec
    account_id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: Its name in desired state and the audit trail, if that is not the command's own.
    why: str = ""
    host: str = ""
    queue: str = ""
    #: The task's id, by which a command that is delivered twice is one.
    token: str = ""
    #: What the account asks of its host; None: the host that gets the command finds out.
    needs: Needs | None = None
    failover: bool = False
    #: Its generation in desired state; 0 until that is written.
    generation: int = 0

    def __post_init__(self) -> None:
        if not self.token:
            object.__setattr__(self, "token", new_token(self.spec.name, self.account_id))

    @property
    def name(self) -> str:
        return self.why or self.spec.name


class BatchOutcome:
    """Collects the outcome of each account of a batch."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress
        self._parts: dict[str, dict[str, Any]] = {
            "done": {},
            "already": {},
            "resting": {},
            "skipped": {},
            "failed": {},
        }

    def put(self, account_id: str, part: str, what: Any) -> None:
        self._parts[part][account_id] = what
        self.notify(account_id, part)

    def notify(self, account_id: str, part: str) -> None:
        """Report an account's outcome to the progress callback."""
        if self._progress is not None:
            self._progress(account_id, part)

    def result(
        self, batch_id: str, pending: Mapping[str, str] | None = None, trouble: str = ""
    ) -> BatchResult:
        return BatchResult(**self._parts, pending=dict(pending or {}), batch_id=batch_id, trouble=trouble)


def place_starts(
    commands: Sequence[Command],
    account_hosts: AccountHosts,
    view: FleetView,
    live: set[str],
) -> tuple[list[Command], dict[str, HostUnavailableError]]:
    """Choose a host for each of many starts, and set their order.

    Interleaves the starts of different servers. Each server's logins are limited per second, so starts of one
    server in a row would delay all others. Returns the placed commands with their queues, and for the others
    why no host fits.
    """
    refused: dict[str, HostUnavailableError] = {}
    servers: dict[str, list[Command]] = {}
    # Accounts that fit few hosts come first. Others could take their places although more hosts fit them.
    for command in sorted(commands, key=_fewest_hosts_first):
        present, has_worker = account_hosts.get(command.account_id, ("", False))
        if command.needs is not None and not (has_worker and present in live):
            placement = view.place(command.needs, present or None)
            if placement.host is None:
                refused[command.account_id] = NoHostFitsError(placement.explain())
                continue
            view.add(command.needs, placement.host)
            host = placement.host
            command = replace(command, host=host, queue=wire.host_queue(host))  # noqa: PLW2901
        servers.setdefault(command.needs.server if command.needs is not None else "", []).append(command)
    rounds = zip_longest(*servers.values())
    return [command for row in rounds for command in row if command is not None], refused


def refuse_incompatible_hosts(
    commands: Sequence[Command], account_hosts: AccountHosts, hosts: Sequence[HostFacts]
) -> tuple[list[Command], dict[str, HostUnavailableError]]:
    """Return the starts that can be sent, and errors for the others.

    Refuses a start whose live host has an incompatible version. A start without a host is refused only if
    every live host is incompatible.
    """
    incompatible = {host.name: host for host in hosts if host.live and not host.compatible}
    if not incompatible:
        return list(commands), {}
    any_compatible = any(host.live and host.compatible for host in hosts)
    ready: list[Command] = []
    refused: dict[str, HostUnavailableError] = {}
    for command in commands:
        name = command.host or account_hosts.get(command.account_id, ("", False))[0]
        host = incompatible.get(name) or (None if any_compatible else next(iter(incompatible.values())))
        if host is None:
            ready.append(command)
        else:
            refused[command.account_id] = VersionMismatchError(
                f"{command.account_id}: host {host.name} and this manager do not work together: "
                f"{apart(host.version, __version__)}: upgrade the older one"
            )
    return ready, refused


def refuse_unknown_commands(
    commands: Sequence[Command], account_hosts: AccountHosts, hosts: Sequence[HostState]
) -> tuple[list[Command], dict[str, HostUnavailableError]]:
    """Return the commands that can be sent, and errors for the others.

    Refuses a command that the account's host does not know. A silent host is judged by its last report.
    """
    known = {host.name: set(host.report.commands or ()) for host in hosts if host.live or host.data}
    versions = {host.name: host.report.version for host in hosts}
    ready: list[Command] = []
    refused: dict[str, HostUnavailableError] = {}
    for command in commands:
        host = account_hosts.get(command.account_id, ("", False))[0]
        if host in known and command.spec.name not in known[host]:
            refused[command.account_id] = VersionMismatchError(
                f"{command.account_id}: host {host} runs version {versions.get(host)}, which does not know "
                f"{command.spec.name}: upgrade it; nothing was done"
            )
        else:
            ready.append(command)
    return ready, refused


def _fewest_hosts_first(command: Command) -> tuple[bool, int, int]:
    needs = command.needs
    return (True, 0, 0) if needs is None else (needs.pin is None, -len(needs.requires), -len(needs.avoid))


def start_outcome(outcome: Any) -> tuple[str, Any]:
    """Return the part of a start's result or error in the batch's outcome."""
    if isinstance(outcome, BaseException):
        return "failed", error_text(outcome)
    info = WorkerInfo.from_dict(outcome)
    return start_part(info), info


def mode_outcome(outcome: Any) -> tuple[str, Any]:
    """Return the part of a mode command's result in the batch's outcome."""
    if isinstance(outcome, NoWorkerError):
        return "skipped", str(outcome)
    if isinstance(outcome, BaseException):
        return "failed", error_text(outcome)
    return "done", WorkerInfo.from_dict(outcome)


def error_text(error: BaseException) -> str:
    return str(error) or type(error).__name__


class Unchecked(ValidationResult):
    """The result for an account that no host has validated.

    Its error says why.
    """


def unchecked(account_id: str, text: str) -> ValidationResult:
    return Unchecked(valid=False, account_id=account_id, errors=(text,))
