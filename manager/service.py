"""The facade that people import: the fleet's commands, the same code for the host agent and for everyone else."""

import logging
from collections.abc import Mapping
from typing import Final

from manager import logs
from manager.config import ConfigurationService
from manager.errors import ManagerError, StopFailedError
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.pool import Progress, StartOrder, WorkerPool
from manager.states import WorkerLifecycleStatus
from manager.validation import AccountConfigurationValidator, OrderBook

logger: Final = logging.getLogger(__name__)


class WorkerManagerService:
    """Starts, stops, restarts, validates and lists the workers of the accounts in one configuration directory.

    `worker_pool` is the host's own pool or the one that sends the same commands through Celery. Every method may be
    called from any thread and blocks until its answer is known.
    """

    def __init__(
        self,
        config_service: ConfigurationService,
        worker_pool: WorkerPool,
        validator: AccountConfigurationValidator | None = None,
    ) -> None:
        self.config_service = config_service
        self.worker_pool = worker_pool
        self.validator = validator or AccountConfigurationValidator(config_service)
        self._orders = OrderBook(config_service, self.validator)

    # one account

    def start_worker_from_config(
        self, account_id: str, apply_defaults: bool = True, validate: bool = True
    ) -> WorkerInfo:
        """Start the account's worker; returns once its session is connected.

        Idempotent: what runs already is returned with `metadata["already_running"]` true. Raises ValueError if there
        is no such account or it is invalid or disabled, RuntimeError if it could not start; then nothing is left of
        the attempt.
        """
        return self.worker_pool.start_worker(self._order(account_id, apply_defaults, validate))

    def restart_worker(self, account_id: str) -> WorkerInfo:
        """Stop the account's worker if it runs, and start it with the configuration as it is now.

        An invalid configuration stops nothing. Raises as `start_worker_from_config` does.
        """
        return self.worker_pool.restart_worker(self._order(account_id, True, True))

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        """Stop the account's worker politely, and by force once `timeout` seconds (or the account's own) are over.

        Returns True when its process has provably ended. Raises ValueError if it has no worker, RuntimeError if the
        worker could not be ended or nobody could be asked.
        """
        return self.worker_pool.stop_worker(account_id, timeout)

    def move_worker(self, account_id: str, host: str, *, force: bool = False) -> WorkerInfo:
        """Stop the account's worker where it is and start it on `host`; returns once its session there is connected.

        `force` is for an account whose host is lost for good: its lease is taken away without proof that its worker
        has ended. If that worker still trades, there are two sessions until it hears of it. Raises ValueError if it is
        on `host` already, RuntimeError if a host is silent, or as stop and start do.
        """
        return self.worker_pool.move_worker(account_id, host, force=force)

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        """Return what is known of the account's worker now, an ended one too; None if it never had one."""
        return self.worker_pool.get_worker_info(account_id)

    def is_worker_running(self, account_id: str) -> bool:
        """Say whether the account's process lives, its session is connected and its heartbeat is fresh."""
        info = self.worker_pool.get_worker_info(account_id)
        return info is not None and info.status is WorkerLifecycleStatus.RUNNING

    def validate_config(self, account_id: str) -> ValidationResult:
        """Check the account's files. Raises ValueError if there is no such account."""
        self.config_service.account_path(account_id)
        return self.validator.validate_account(account_id)

    # all accounts

    def start_all_enabled_workers(
        self, apply_defaults: bool = True, validate: bool = True
    ) -> dict[str, WorkerInfo]:
        """Start every enabled account; returns those that run now. `start_all` also tells of the others."""
        return self.start_all(apply_defaults, validate).running

    def start_all(
        self, apply_defaults: bool = True, validate: bool = True, progress: Progress | None = None
    ) -> BatchResult:
        """Start every enabled account and account for every one: started, already running, skipped, or failed."""
        skipped: dict[str, str] = {}
        failed: dict[str, str] = {}
        orders: list[StartOrder] = []
        for account_id, enabled in self.enabled_accounts().items():
            if enabled is None:
                failed[account_id] = str(self._orders.problems(account_id))
            elif enabled:
                orders.append(self._order(account_id, apply_defaults, validate))
            else:
                skipped[account_id] = f"{account_id}: disabled in its file (enabled: false)"
        if progress is not None:
            for account_id in (*skipped, *failed):
                progress(account_id, "skipped" if account_id in skipped else "failed")
        result = self.worker_pool.start_many(orders, progress)
        result = result.model_copy(
            update={"skipped": {**skipped, **result.skipped}, "failed": {**failed, **result.failed}}
        )
        self._log_batch("start_all", result)
        return result

    def stop_all_workers(self, timeout: float | None = None) -> int:
        """Stop every worker; returns how many were stopped.

        Raises StopFailedError, a RuntimeError, that names every worker which could not be proven to have ended.
        """
        result = self.stop_all(timeout)
        if result.failed:
            raise StopFailedError(
                f"{len(result.failed)} of {len(result.failed) + len(result.done)} workers did not stop: "
                + "; ".join(result.failed.values())
            )
        return len(result.done)

    def stop_all(self, timeout: float | None = None, progress: Progress | None = None) -> BatchResult:
        """Stop every worker that may have a process or would get one again, and account for every one."""
        result = self.worker_pool.stop_many(self.worker_pool.stoppable(), timeout, progress)
        self._log_batch("stop_all", result)
        return result

    def validate_all_configs(self) -> dict[str, ValidationResult]:
        """Check every account file; broken ones are among the results."""
        return self.validator.validate_all()

    def list_workers(self) -> list[WorkerInfo]:
        """Return every known worker as it is now, ended ones too, by account id."""
        return self.worker_pool.list_workers()

    def enabled_accounts(self) -> Mapping[str, bool | None]:
        """Return every account's `enabled`; None where the file is so broken that nobody can say."""
        found: dict[str, bool | None] = {}
        for account_id in self.config_service.list_accounts():
            try:
                config = self.config_service.read_account(account_id).config
            except ManagerError:
                config = None
            found[account_id] = None if config is None else config.enabled
        return found

    # inside

    def _order(self, account_id: str, apply_defaults: bool, validate: bool) -> StartOrder:
        return self._orders.order(account_id, apply_defaults, validate)

    @staticmethod
    def _log_batch(action: str, result: BatchResult) -> None:
        logs.event(
            logger,
            logging.WARNING if result.failed else logging.INFO,
            action,
            "; ".join(result.failed.values()),
            done=len(result.done),
            already=len(result.already),
            skipped=len(result.skipped),
            failed=len(result.failed),
        )
