"""The protocol between the service and a pool of workers, local or remote."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.placement.engine import Needs
from manager.pool.commands import CommandSpec
from manager.states import TradingMode

if TYPE_CHECKING:
    from manager.config import AccountConfig
    from manager.fleet.event_types import Event, EventFilter
    from manager.fleet.run_types import Run, RunCause

#: Called once for each account of a batch with its id and its outcome: `done`, `already`, `skipped`, `failed`
#: or `pending` (unknown).
Progress = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class StartRequest:
    """A request to start an account, and the means to load its configuration.

    `prepare` loads and validates the configuration, and raises ValueErrors. Only the pool that runs the
    worker calls it, at the start. A restart therefore uses the files of that moment, and the caller of a
    remote pool need not have them.
    """

    account_id: str
    apply_defaults: bool
    validate: bool
    prepare: "Callable[[], AccountConfig]"
    #: Generation of the desired state that it carries out; 0 without desired state.
    generation: int = 0
    #: The account's requirements on its host; None if this process does not have its file.
    needs: Needs | None = None
    #: Whether another host may take the account when its host is lost.
    failover: bool = False
    #: Returns the initial trading mode, called when the worker is created; None: the pool's own record of it.
    trading_mode: "Callable[[], TradingMode] | None" = None
    #: Runs the caller's own validator, for a remote pool, which does not call `prepare`. Raises the same
    #: errors. None if the host's validation is the same.
    check: "Callable[[], object] | None" = None
    #: Who asked for the start, and why; None if unknown.
    origin: "RunCause | None" = None


def new_batch_id() -> str:
    return str(uuid4())


@dataclass(frozen=True, slots=True)
class Batch:
    """Options of a batch. Its progress can be queried by `id`."""

    id: str = field(default_factory=new_batch_id)
    #: Account without a command → (`skipped` or `failed`, reason).
    settled: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: Whether the call blocks until the results arrive.
    wait: bool = True


class WorkerPool(Protocol):
    """A pool of workers, local or remote.

    The local pool is the host agent's; the remote one sends commands through Celery.
    """

    def start_worker(self, request: StartRequest) -> WorkerInfo:
        """Start the account's worker.

        Blocks until its session is connected, and returns the worker. If a worker runs already, returns it
        with `metadata["already_running"]` true.

        Raises:
            ValueError: the account or its configuration is invalid.
            RuntimeError: the worker could not start; no process is left.
        """

    def restart_worker(self, request: StartRequest) -> WorkerInfo:
        """Stop the account's worker, if any, and start a new one.

        No other command runs in between.
        """

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        """Stop the account's worker.

        Blocks until its process has ended, and returns True. `timeout` is in seconds; None is the account's
        own.

        Raises:
            NoWorkerError: the account has no worker (a ValueError).
            StopFailedError: the process could not be ended.
        """

    def move_worker(
        self, account_id: str, host: str, *, force: bool = False, needs: Needs | None = None
    ) -> WorkerInfo:
        """Stop the account's worker on its present host and start it on `host`.

        `needs`, where known, are checked before the stop. With `force`, the worker need not be proven to have
        ended.
        """

    def set_mode(self, command: CommandSpec, account_id: str) -> WorkerInfo:
        """Change the trading mode of the account.

        The mode applies to its present session and to later ones. `command` is `PAUSE` or `RESUME`. Blocks
        until the worker has acknowledged; returns at once if there is none.

        Raises:
            NoWorkerError: the account never had a worker.
            NotSupportedError: the gateway runs a program, which decides by itself when to trade.
            CommandRefusedError: the worker did not answer.
        """

    def set_mode_many(
        self,
        command: CommandSpec,
        account_ids: Sequence[str],
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """Change the mode of many accounts. The result contains every account."""

    def start_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """Start many accounts. The result contains every account.

        Raises only if no start could be attempted.
        """

    def restart_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """Restart many accounts. The result contains every account."""

    def stop_many(
        self,
        account_ids: Sequence[str],
        timeout: float | None = None,
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """Stop many accounts. The result contains every account."""

    def validate_many(
        self, needs: "Mapping[str, Needs]", progress: Progress | None = None
    ) -> dict[str, tuple[str, ValidationResult]] | None:
        """Validate accounts on the hosts that would run them.

        Returns account → (host, result). Returns None if the accounts would run in this process. `progress`
        is called with each account and `asked`, then with `done` or `failed`.
        """

    def watch(
        self,
        after: str = "$",
        *,
        only: "EventFilter | None" = None,
        idle_seconds: float | None = None,
        closed: Callable[[], bool] = lambda: False,
    ) -> "Iterator[Event]":
        """Yield each of the fleet's events after a cursor once, in stream order.

        Blocks between events. Ends once `closed` returns True, or after `idle_seconds` without an event.
        Raises NotSupportedError if the pool has no event stream. Otherwise raises as
        `manager.telemetry.event_watch.watch_events`.
        """

    def runs(self, account_id: str, last: int | None = None) -> "list[Run]":
        """Return the account's newest `last` ended runs, newest first; all that are kept if None.

        Raises NotSupportedError if the pool keeps no history.
        """

    def stoppable(self) -> list[str]:
        """Return the accounts that a stop of all must stop.

        They have, may have or should have a worker.
        """

    def recorded_needs(self, account_ids: Sequence[str]) -> "Mapping[str, Needs]":
        """Return the needs recorded at the accounts' last starts.

        Used for accounts whose files cannot be read.
        """

    def list_workers(self) -> list[WorkerInfo]: ...

    def get_worker_info(self, account_id: str) -> WorkerInfo | None: ...

    def has_worker_for_account(self, account_id: str) -> bool:
        """Return whether the account has a worker process, in any state."""
