"""The service that callers import: the fleet's commands in Python."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from manager.config import LoadedAccount
from manager.config.check_progress import CheckProgress
from manager.errors import ManagerError
from manager.fleet.event_types import Event, EventFilter
from manager.fleet.run_types import Run
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.placement.engine import Needs
from manager.placement.labels import Selection
from manager.pool.arguments import (
    check_account_id,
    check_flags,
    check_host_name,
    check_selection,
    check_timeout,
)
from manager.pool.batches import run_starts, run_stops, stopped_count
from manager.pool.commands import PAUSE, RESTART, RESUME, START, CommandSpec
from manager.pool.protocol import Batch, Progress, WorkerPool, new_batch_id
from manager.pool.refusals import noted_refusals
from manager.pool.selected import SelectedAccounts
from manager.pool.start_requests import StartRequestFactory
from manager.states import WorkerLifecycleStatus
from manager.validation import AccountConfigs, Validator


class WorkerManagerService:
    """Commands and queries for the workers of one configuration.

    `worker_pool` is the host's own pool, or the pool that sends the same commands through Celery. Every
    method is thread-safe and blocks until the result is known.
    """

    def __init__(
        self,
        config_service: AccountConfigs,
        worker_pool: WorkerPool,
        validator: Validator | None = None,
    ) -> None:
        """Build the service from its parts.

        `config_service` needs `load_account_config` and `list_accounts`; `validator` needs `validate`.

        A `validator` replaces the manager's rules in this process. With a pool that sends commands it runs
        before a command is sent, and the host then applies its own rules.
        """
        self.config_service = config_service
        self.worker_pool = worker_pool
        self._start_requests = StartRequestFactory(config_service, validator)
        self._accounts = self._start_requests.accounts
        self._selected = SelectedAccounts(self._accounts, worker_pool)
        self.validator = self._accounts.validator

    # one account

    def start_worker_from_config(
        self, account_id: str, apply_defaults: bool = True, validate: bool = True
    ) -> WorkerInfo:
        """Start the account's worker and return once its session is connected.

        Idempotent: a worker that already runs is returned with `metadata["already_running"]` true.

        Raises:
            ValueError: There is no such account, or it is invalid or disabled.
            RuntimeError: The worker could not start. Its process, record and lease are cleaned up.
        """
        with noted_refusals(self.worker_pool, "start"):
            check_flags(apply_defaults=apply_defaults, validate=validate)
            check_account_id(account_id)
        request = self._start_requests.start_request(account_id, apply_defaults, validate)
        return self.worker_pool.start_worker(request)

    def restart_worker(self, account_id: str) -> WorkerInfo:
        """Stop the account's worker if it runs, then start it from its files.

        If the configuration is invalid the worker is not stopped. Raises the same as
        `start_worker_from_config`.
        """
        with noted_refusals(self.worker_pool, "restart"):
            check_account_id(account_id)
        return self.worker_pool.restart_worker(self._start_requests.start_request(account_id))

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        """Stop the account's worker, and kill it after `timeout` seconds.

        The default is the account's own timeout.

        Returns True when the process has provably ended. An account whose worker has failed or waits for
        recovery is recorded as stopped, and True is returned.

        Raises:
            ValueError: The account never had a worker, or is already stopped.
            RuntimeError: The worker did not end, or no host agent could be reached.
        """
        with noted_refusals(self.worker_pool, "stop"):
            check_account_id(account_id)
            timeout = check_timeout(timeout)
        return self.worker_pool.stop_worker(account_id, timeout)

    def move_worker(self, account_id: str, host: str, *, force: bool = False) -> WorkerInfo:
        """Stop the account's worker on its host and start it on `host`.

        Return once its session is connected. `force` is for an account whose host is permanently lost. It
        revokes the lease without proof that the worker has ended; if that worker still trades, two sessions
        exist until it notices the loss of its lease.

        Raises:
            ValueError: The account is on `host` already.
            RuntimeError: A host is silent, or the stop or the start failed; or, without `force`, a placement
                rule refuses `host`, and the worker continues there.
        """
        with noted_refusals(self.worker_pool, "move"):
            check_account_id(account_id)
            check_host_name(host)
            check_flags(force=force)
        needs: Needs | None = None
        with suppress(ManagerError):  # the target host reports what is wrong with the file
            needs = self._accounts.load(account_id).needs()
        return self.worker_pool.move_worker(account_id, host, force=force, needs=needs)

    def pause_worker(self, account_id: str) -> WorkerInfo:
        """Stop the account's session from sending orders, but keep it connected.

        Return once this is in effect. The pause lasts until `resume_worker`, across restarts and later
        sessions. Idempotent.

        Raises:
            ValueError: The account never had a worker.
            RuntimeError: The account's gateway runs a program, or its worker did not answer.
        """
        return self.worker_pool.set_mode(PAUSE, check_account_id(account_id))

    def resume_worker(self, account_id: str) -> WorkerInfo:
        """Let the account's session trade again.

        Raises the same as `pause_worker`.
        """
        return self.worker_pool.set_mode(RESUME, check_account_id(account_id))

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        """Return the account's worker, running or ended.

        None if the account never had one.
        """
        return self.worker_pool.get_worker_info(account_id)

    def is_worker_running(self, account_id: str) -> bool:
        """Return whether the worker has a connected session and fresh heartbeat."""
        info = self.worker_pool.get_worker_info(account_id)
        return info is not None and info.status is WorkerLifecycleStatus.RUNNING

    def validate_config(self, account_id: str) -> ValidationResult:
        """Check the account's files.

        Raises ValueError if there is no such account.
        """
        self._accounts.require(account_id)
        return self._accounts.check(account_id)

    # many accounts

    def start_all_enabled_workers(
        self,
        apply_defaults: bool = True,
        validate: bool = True,
        group: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> dict[str, WorkerInfo]:
        """Start every enabled account and return those that run.

        `start_all` also reports the others. An account is selected if it has any of the groups in `group` and
        all of `labels`.
        """
        return self.start_all(apply_defaults, validate, selection=check_selection(group, labels)).running

    def start_all(
        self,
        apply_defaults: bool = True,
        validate: bool = True,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        """Start every enabled account and report the outcome of each account.

        A file that is not read (wrong file name extension) counts as failed even with a `selection`, because
        it may be an account's. Other processes find the progress by `batch_id`. Without `wait` the method
        returns once every command is sent.
        """
        check_flags(apply_defaults=apply_defaults, validate=validate, wait=wait)
        requests, settled = self._start_requests.for_all(self.select(selection), apply_defaults, validate)
        settled = {key: ("failed", text) for key, text in self.not_read().items()} | settled
        batch = Batch(batch_id or new_batch_id(), settled, wait)
        return run_starts(self.worker_pool, "start_all", START, requests, batch, progress)

    def restart_all(
        self,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        """Restart every selected account that has a worker, from its files."""
        check_flags(wait=wait)
        requests, settled = self._start_requests.restarts(
            self.select(selection), set(self.worker_pool.stoppable())
        )
        batch = Batch(batch_id or new_batch_id(), settled, wait)
        return run_starts(self.worker_pool, "restart_all", RESTART, requests, batch, progress)

    def stop_all_workers(
        self,
        timeout: float | None = None,
        group: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> int:
        """Stop every (selected) worker and return how many were stopped.

        Raises StopFailedError (a RuntimeError) that names every worker without proof that it ended.
        """
        return stopped_count(self.stop_all(timeout, selection=check_selection(group, labels)))

    def stop_all(
        self,
        timeout: float | None = None,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        """Stop every worker that may run or be restarted; report each outcome.

        An account whose file is gone or unreadable is selected by the groups and labels of its last start. If
        none are recorded it is not stopped and is reported as failed.
        """
        timeout = check_timeout(timeout)
        check_flags(wait=wait)
        stoppable, settled = self._selected.stoppable(selection)
        batch = Batch(batch_id or new_batch_id(), settled, wait)
        return run_stops(self.worker_pool, "stop_all", stoppable, timeout, batch, progress)

    def pause_all(
        self,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        """Pause every selected account with a worker, or one to come."""
        return self.set_mode_all(PAUSE, progress, selection=selection, batch_id=batch_id, wait=wait)

    def resume_all(
        self,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        """Resume every selected account with a worker, or one to come."""
        return self.set_mode_all(RESUME, progress, selection=selection, batch_id=batch_id, wait=wait)

    def set_mode_all(
        self,
        command: CommandSpec,
        progress: Progress | None = None,
        *,
        selection: Selection | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        """Run one of `manager.pool.commands.MODE_COMMANDS` for many accounts."""
        check_flags(wait=wait)
        chosen = self.worker_pool.stoppable()
        if selection:
            selected = self.select(selection)
            chosen = [account_id for account_id in chosen if account_id in selected]
        batch = Batch(batch_id or new_batch_id(), {}, wait)
        return self.worker_pool.set_mode_many(command, chosen, progress, batch)

    def run_many(
        self,
        command: CommandSpec,
        account_ids: Sequence[str],
        *,
        apply_defaults: bool = True,
        validate: bool = True,
        timeout: float | None = None,
        batch_id: str | None = None,
        wait: bool = True,
    ) -> BatchResult:
        """Run one command for the named accounts as one batch.

        `apply_defaults` and `validate` are for starts, `timeout` (seconds) for stops.
        """
        check_flags(apply_defaults=apply_defaults, validate=validate, wait=wait)
        timeout = check_timeout(timeout)
        ids = [check_account_id(account_id) for account_id in dict.fromkeys(account_ids)]
        batch_id, action = batch_id or new_batch_id(), f"{command.name}_many"
        if command.mode is not None:
            return self.worker_pool.set_mode_many(command, ids, None, Batch(batch_id, {}, wait))
        if not command.starts:
            return run_stops(self.worker_pool, action, ids, timeout, Batch(batch_id, {}, wait))
        requests, settled = self._start_requests.for_many(command, ids, apply_defaults, validate)
        return run_starts(self.worker_pool, action, command, requests, Batch(batch_id, settled, wait))

    def select(self, selection: Selection | None = None) -> dict[str, LoadedAccount | None]:
        """Return the selected accounts as loaded from their files.

        None for an unreadable file.
        """
        return self._selected.read(selection)

    def watch(
        self,
        after: str = "$",
        *,
        types: Sequence[str] = (),
        account_ids: Iterable[str] | None = None,
        idle_seconds: float | None = None,
    ) -> Iterator[Event]:
        """Yield the fleet's events after a cursor, oldest first, each once.

        Blocks between events. `after` is the `cursor` of an event, `$` (now) or `0` (the oldest stored
        event). `types` are patterns such as `worker.*`; empty: all. `account_ids` None: all accounts. Ends
        after `idle_seconds` without an event; None: never. While Redis is unavailable it waits, then
        continues after the last event.

        Raises:
            ValueError: `after` is not a cursor.
            CursorGoneError: Events after the cursor are no longer kept: list the workers again.
            RuntimeError: Redis cannot be used when the watch begins, or the pool has no event stream.
        """
        only = EventFilter(
            types=tuple(types), accounts=None if account_ids is None else frozenset(account_ids)
        )
        return self.worker_pool.watch(after, only=only, idle_seconds=idle_seconds)

    def runs(self, account_id: str, last: int | None = 50) -> list[Run]:
        """Return the account's newest `last` ended runs, newest first; None: all that the hosts keep."""
        return self.worker_pool.runs(check_account_id(account_id), last)

    def validate_all_configs(
        self, selection: Selection | None = None, progress: CheckProgress | None = None
    ) -> dict[str, ValidationResult]:
        """Validate every (selected) account file on this machine; `progress` sees every file."""
        return self._selected.check(selection, progress)

    def not_read(self) -> dict[str, str]:
        """Return ignored files that look like configuration, each with the reason.

        The key is `accounts` if that directory is missing or empty.
        """
        return self._accounts.not_read()

    def validate_on_hosts(
        self,
        account_ids: Sequence[str] | None = None,
        selection: Selection | None = None,
        progress: CheckProgress | None = None,
    ) -> dict[str, tuple[str, ValidationResult]]:
        """Validate accounts on the hosts that would run them.

        Returns account id → (host, result). The host checks its credentials and terminals too. An unreadable
        file is checked here; its host is "". Starts nothing. `progress`: `manager.config.check_progress`.

        Raises:
            HostUnavailableError: No host agent is live.
            FleetUnavailableError: Redis cannot be reached.
            ValueError: An account is unknown.
        """
        if account_ids is None:
            local = self._selected.check(selection, progress)
        else:
            local = {account_id: self.validate_config(account_id) for account_id in account_ids}
        return self._selected.check_on_hosts(local, progress)

    def list_workers(self, selection: Selection | None = None) -> list[WorkerInfo]:
        """Return every known (selected) worker, sorted by account id.

        The account's file decides whether it is selected. If the file is gone or unreadable, the groups and
        labels of its last start decide; if none are recorded, an unreadable file counts as selected.
        """
        return self._selected.workers(selection)

    def enabled_accounts(self) -> Mapping[str, bool | None]:
        """Return each account's `enabled`; None if its file is unreadable."""
        return {
            account_id: None if loaded is None or loaded.config is None else loaded.config.enabled
            for account_id, loaded in self.select().items()
        }
