"""What the service needs of a pool of workers, wherever the workers are. A leaf but for the models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.placement.engine import Needs
from manager.pool.commands import CommandSpec
from manager.states import TradingMode

if TYPE_CHECKING:
    from manager.config import AccountConfig

#: Called once for each account of a batch: its id, and `done`, `already`, `skipped`, `failed` or `pending`
#: (unknown).
Progress = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class StartRequest:
    """An account to be started, and how to get its configuration.

    `prepare` loads and validates, and raises ValueErrors. It is called where the worker will run and not before, so
    that a restart uses the files as they are then, and the caller of a remote pool need not have them.
    """

    account_id: str
    apply_defaults: bool
    validate: bool
    prepare: "Callable[[], AccountConfig]"
    #: Of the desired state that asks for it; 0 where nobody keeps one.
    generation: int = 0
    #: What the account asks of its host, where its file is at hand.
    needs: Needs | None = None
    #: Whether another host may take over.
    failover: bool = False
    #: Says how its session trades from the beginning, asked when the worker is made; None: as the pool knows it.
    trading_mode: "Callable[[], TradingMode] | None" = None
    #: What the caller's own validator says, for a pool that sends the order away: it does not call `prepare`.
    #: Raises as that does. None if it would say nothing that the host does not.
    check: "Callable[[], object] | None" = None


def new_batch_id() -> str:
    return str(uuid4())


@dataclass(frozen=True, slots=True)
class Batch:
    """What is said about a batch beyond its members. `id` is how its progress is found again."""

    id: str = field(default_factory=new_batch_id)
    #: Accounts for which there is nothing to be done → (`skipped` or `failed`, why).
    settled: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    #: False: the caller does not stay for the answers.
    wait: bool = True


class WorkerPool(Protocol):
    """The host agent's pool of processes, or the one that sends the same commands through Celery."""

    def start_worker(self, request: StartRequest) -> WorkerInfo:
        """Start the account's worker and return it once its session is connected.

        If it runs already, answers with what runs and `metadata["already_running"]` true. Raises ValueError (the
        account or its configuration is wrong) or RuntimeError (it could not start; nothing is left behind).
        """

    def restart_worker(self, request: StartRequest) -> WorkerInfo:
        """Stop the account's worker if it has one, then start it; nobody else's start gets in between."""

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        """Stop the account's worker; True once its process is proven to have ended.

        `timeout` is in seconds, by default the account's own. Raises NoWorkerError (a ValueError) if there is none,
        StopFailedError if it could not be ended.
        """

    def move_worker(
        self, account_id: str, host: str, *, force: bool = False, needs: Needs | None = None
    ) -> WorkerInfo:
        """Stop the account's worker where it is and start it on `host`; with `force`, without proof that it has ended.

        `needs`, where known, are looked at before anything is stopped.
        """

    def set_mode(self, command: CommandSpec, account_id: str) -> WorkerInfo:
        """Change how the account's session trades, and the sessions that follow; `command` is `PAUSE` or `RESUME`.

        Returns once the worker has done so; at once for an account that has no worker. Raises NoWorkerError if
        it never had one, NotSupportedError if what it runs decides by itself when to trade, CommandRefusedError if
        its worker did not answer.
        """

    def set_mode_many(
        self,
        command: CommandSpec,
        account_ids: Sequence[str],
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """Change the mode of many at once; every account is accounted for."""

    def start_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """Start many at once; every order is accounted for in the result. Raises only if nothing could be tried."""

    def restart_many(
        self, requests: Sequence[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        """Stop and start many at once; every order is accounted for."""

    def stop_many(
        self,
        account_ids: Sequence[str],
        timeout: float | None = None,
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        """Stop many at once; every account is accounted for."""

    def validate_many(self, needs: "Mapping[str, Needs]") -> dict[str, tuple[str, ValidationResult]] | None:
        """Check accounts on the hosts that would run them: account → (host, what it found).

        None if there are no other hosts to ask: this process is where the accounts would run.
        """

    def stoppable(self) -> list[str]:
        """Return the accounts that a stop of everything must stop: those that may have a worker, or will again."""

    def recorded_needs(self, account_ids: Sequence[str]) -> "Mapping[str, Needs]":
        """Return what is recorded of accounts since they were started last, for when their files cannot be read."""

    def list_workers(self) -> list[WorkerInfo]: ...

    def get_worker_info(self, account_id: str) -> WorkerInfo | None: ...

    def has_worker_for_account(self, account_id: str) -> bool:
        """Say whether the account has a worker process, in whichever state."""
