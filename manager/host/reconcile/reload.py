"""Brings changes of account files to the workers that run, without a restart where that is possible."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

from manager.change.reload_classes import FieldChange, ReloadClass
from manager.config import AccountConfig, config_version
from manager.config.loaded import LoadedAccount
from manager.errors import FleetUnavailableError, ManagerError, SlowFilesError
from manager.fleet.desired import DISABLED, ENABLED, REMOVED, DesiredState, DesiredStateRequest
from manager.host.reconcile.config_holds import ConfigHolds
from manager.host.reconcile.config_rollbacks import ConfigRollbacks
from manager.host.reconcile.config_sweep import ConfigSweep
from manager.host.reconcile.desired_state import DesiredStateCache
from manager.host.reconcile.reload_restarts import ReloadRestarts
from manager.host.reconcile.reload_rollouts import ReloadRollouts
from manager.host.reconcile.reload_texts import explain, key_names, restart_text, without_secrets
from manager.host.reconcile.removed_files import RemovedFiles
from manager.host.workers.bounded_reads import BoundedConfiguration
from manager.host.workers.config_changes import BY_FILE, ConfigChanges, NotNowError, RefusedError, event_data
from manager.host.workers.config_difference import ConfigDifference
from manager.host.workers.kept_configs import KeptConfig
from manager.host.workers.records import WorkerRecord
from manager.system import logs
from manager.system.thread_pool import ThreadPool

logger = logging.getLogger(__name__)

#: Changes of account files that are examined in parallel.
_PARALLEL: Final = 4
#: Characters of a text in `metadata.config`, and changes that it names.
_TEXT: Final = 500
_MAX_CHANGES: Final = 20


@dataclass(frozen=True, slots=True)
class _Seen:
    """What was compared last: a worker, its configuration, and its file."""

    worker_id: str
    config_version: str
    loaded: LoadedAccount


class ConfigReload:
    """Compares what runs on this host with the account files, and acts on the differences.

    `apply` is for one thread. A file that is invalid changes nothing that runs.
    """

    def __init__(
        self,
        host: str,
        config_changes: ConfigChanges,
        desired_cache: DesiredStateCache,
        sweep: ConfigSweep,
        config_service: BoundedConfiguration,
        validated: Callable[[DesiredState], AccountConfig],
        restarts: ReloadRestarts,
        rollouts: ReloadRollouts,
        rollbacks: ConfigRollbacks,
        holds: ConfigHolds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`validated` reads and validates an account's files. It raises ManagerError.

        `clock` returns monotonic seconds.
        """
        self._host = host
        self._changes = config_changes
        self._desired_cache = desired_cache
        self._sweep = sweep
        self._config_service = config_service
        self._validated = validated
        self._restarts = restarts
        self._rollouts = rollouts
        self._rollbacks = rollbacks
        self._holds = holds
        self._clock = clock
        self._removed_files = RemovedFiles()
        self._looks = 0
        self._settled: Mapping[str, LoadedAccount] | None = None
        self._files: Mapping[str, LoadedAccount] = {}
        #: Accounts whose files changed together with those of others, and alone.
        self._together: frozenset[str] = frozenset()
        self._alone: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        #: Accounts that are being compared.
        self._busy: set[str] = set()
        self._seen: dict[str, _Seen] = {}
        self.thread_pool = ThreadPool(_PARALLEL, "reload")

    def close(self) -> None:
        """End the comparisons that run."""
        self.thread_pool.shutdown(cancel_futures=True)

    @property
    def in_progress(self) -> frozenset[str]:
        """The accounts that are being compared."""
        with self._lock:
            return frozenset(self._busy)

    def apply(self) -> None:
        """Act on what two looks at the files agree on. Does not wait for the workers."""
        if self._sweep.looks < 2:
            return
        settled = self._sweep.settled
        self._note_changed_together(settled)
        self._follow_removed_files()
        ended = [one for why in (DISABLED, REMOVED) for one in self._desired_cache.ended_by(why)]
        for desired in ended:
            loaded = settled.get(desired.account_id)
            if self._is_own(desired) and loaded is not None and loaded.config and loaded.config.enabled:
                self._switch(desired, loaded.config, "running", ENABLED)
        for account_id in self._holds.read():
            self._seen.pop(account_id, None)
        own = [one for one in self._desired_cache.running() if self._is_own(one)]
        for desired in own:
            loaded = settled.get(desired.account_id)
            if loaded is None:
                self._without_file(desired)
                continue
            if loaded.config is not None and not loaded.config.enabled:
                self._switch(desired, loaded.config, "stopped", DISABLED)
            else:
                self._compare_later(desired, loaded)
        with self._lock:
            for account_id in self._seen.keys() - {one.account_id for one in own}:
                del self._seen[account_id]
        self._holds.forget_others({one.account_id for one in own})
        self._restarts.tick()
        self._rollouts.tick({key: self._files[key] for key in self._together if key in self._files})

    def _follow_removed_files(self) -> None:
        if self._sweep.looks != self._looks:
            self._looks = self._sweep.looks
            self._removed_files.look(self._sweep.present, self._clock())

    def _without_file(self, desired: DesiredState) -> None:
        """Stop an account whose file was removed; if many files are gone, only say so."""
        account_id = desired.account_id
        self._seen.pop(account_id, None)
        now = self._clock()
        before = self._files.get(account_id)
        config = None if before is None else before.config
        if config is not None and account_id in self._removed_files.removed(now):
            self._switch(desired, config, "stopped", REMOVED)
        elif account_id in self._removed_files.vanished(now):
            record = self._changes.record(account_id)
            text = "its file is gone with many others, so nothing stops: check the directory or the share"
            state: dict[str, Any] = {"state": "vanished", "file": None, "text": text, "changes": []}
            if record is not None:
                with contextlib.suppress(NotNowError):  # the next look tries again
                    self._changes.note(account_id, record.worker_id, state, {})

    def _note_changed_together(self, settled: Mapping[str, LoadedAccount]) -> None:
        """Notice the accounts whose files changed in one look; all of the fleet count."""
        if settled is self._settled:
            return
        first, self._settled = self._settled is None, settled
        before, self._files = self._files, {**self._files, **settled}
        if first:
            return  # whether they have changed is unknown
        looked_at = {key for key, one in settled.items() if before.get(key) is not one}
        changed = {key for key in looked_at if key not in before or before[key].config != settled[key].config}
        if len(changed) > 1:
            self._together, self._alone = self._together | changed, self._alone - changed
        elif changed:
            self._together, self._alone = self._together - changed, self._alone | changed

    def _is_own(self, desired: DesiredState) -> bool:
        return desired.host == self._host

    def _switch(self, desired: DesiredState, config: AccountConfig, state: Any, why: str) -> None:
        """Change desired state because of `enabled` in the account's file."""
        # Another agent, or this one after a restart, asks with the same token: one command.
        token = f"{why}-{uuid5(NAMESPACE_OID, f'{desired.account_id}:{desired.generation}:{why}')}"
        request = DesiredStateRequest(
            account_id=desired.account_id,
            state=state,
            token=token,
            by=BY_FILE,
            why=why,
            host=self._host,
            apply_defaults=desired.apply_defaults,
            validate=desired.validate,
            failover=config.failover == "auto",
            needs=config.needs(),
        )
        try:
            self._desired_cache.set_unless_changed(request, desired.generation)
        except FleetUnavailableError:
            return  # tried again at the next look
        logs.event(logger, logging.WARNING, "enabled_changed", why, account=desired.account_id, state=state)

    def _compare_later(self, desired: DesiredState, loaded: LoadedAccount) -> None:
        account_id = desired.account_id
        record = self._changes.record(account_id)
        if record is None:
            return
        seen = self._seen.get(account_id)
        if (
            seen is not None
            and seen.loaded is loaded
            and (seen.worker_id, seen.config_version) == (record.worker_id, record.config_version)
        ):
            return
        with self._lock:
            if account_id in self._busy:
                return
            self._busy.add(account_id)
        self.thread_pool.submit(self._run, desired, record, loaded)

    def _run(self, desired: DesiredState, record: WorkerRecord, loaded: LoadedAccount) -> None:
        account_id = desired.account_id
        try:
            version = self._compare(desired, record, loaded)
            with self._lock:
                self._seen[account_id] = _Seen(record.worker_id, version, loaded)
        except NotNowError:
            pass  # a command runs, or the session is inside a call: tried again at the next look
        except Exception:
            logger.exception("the comparison of an account's configuration failed unexpectedly")
        finally:
            with self._lock:
                self._busy.discard(account_id)

    def _compare(self, desired: DesiredState, record: WorkerRecord, loaded: LoadedAccount) -> str:
        """Apply what can be applied, record the rest. Returns the version that now runs.

        Raises NotNowError.
        """
        account_id, worker_id = record.account_id, record.worker_id
        running = self._changes.kept.load(account_id, worker_id)
        try:
            config = _if_same(record, running, loaded) or self._read(desired, loaded)
        except ManagerError as error:
            self._restarts.withdraw(account_id)
            self._invalid(record, str(error))
            return record.config_version
        if running is not None:
            return self._apply(record, running, config)
        if config_version(config) == record.config_version:
            self._changes.clear(account_id, worker_id)
        else:
            text = "it is unknown what has changed since it started"
            self._note(record, "pending", config, (), f"{text}: {restart_text(account_id)}")
        return record.config_version

    def _read(self, desired: DesiredState, loaded: LoadedAccount) -> AccountConfig:
        """Return the account's configuration as a start would use it.

        Raises NotNowError if the files are not those of the last looks, and what a start would raise.
        """
        account_id = desired.account_id
        error: ManagerError | None = None
        config: AccountConfig | None = None
        try:
            config = self._validated(desired)
        except ManagerError as problem:
            error = problem
        try:
            changed = self._config_service.read_account(account_id) != loaded
        except ManagerError:
            changed = True
        if changed or isinstance(error, SlowFilesError):
            raise NotNowError from None
        if error is not None:
            raise error
        assert config is not None
        return config

    def _invalid(self, record: WorkerRecord, error: str) -> None:
        lines = error.splitlines() or ["it cannot be read"]
        problems = lines[1:] if len(lines) > 1 else lines  # the first line counts them
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        problems = [without_secrets(one)[:_TEXT] for one in problems]
        text = f"{problems[0]}{more}"
        state: dict[str, Any] = {"state": "invalid", "file": None, "text": text, "changes": []}
        data = {"problems": problems[:3]}
        self._changes.note(record.account_id, record.worker_id, state, data)

    def _apply(self, record: WorkerRecord, running: KeptConfig, config: AccountConfig) -> str:
        """Apply what needs no restart."""
        account_id = record.account_id
        found = ConfigDifference.of(running, config, holds=self._holds.applies(account_id, config))
        version = found.target.version
        if found.now or not running.confirmed or version != record.config_version:
            try:
                self._changes.apply(found)
            except RefusedError as error:
                self._restarts.withdraw(account_id)
                why = f"{error}: {restart_text(account_id)}"
                self._note(record, "pending", config, (*found.now, *found.later), why)
                return record.config_version
            keys = ", ".join(one.key for one in found.now)
            logs.event(logger, logging.INFO, "config_applied", keys, account=record.account_id)
        if found.held:
            self._hold(record, config, found)
            return version
        self._holds.release(account_id)
        if found.later:
            self._wait(record, config, found)
        else:
            self._restarts.withdraw(account_id)
            self._holds.settle(account_id)
            self._changes.clear(account_id, record.worker_id)
        return version

    def _hold(self, record: WorkerRecord, config: AccountConfig, found: ConfigDifference) -> None:
        """Record what waits for approval; a restart, which would apply it too, waits as well."""
        account_id = record.account_id
        self._restarts.withdraw(account_id)
        self._holds.hold(account_id, found.target, config, record.generation)
        text = f"{key_names(found.held)}: a real account; `manager approve {account_id}` applies it"
        self._note(record, "held", config, (*found.held, *found.later), text)

    def _wait(self, record: WorkerRecord, config: AccountConfig, found: ConfigDifference) -> None:
        """Record what waits for a restart, and have it done if the account's file says so."""
        account_id = record.account_id
        rollback = self._rollbacks.find(account_id)
        returned = rollback is not None and rollback.reason and rollback.generation == record.generation
        if rollback is not None and returned and rollback.is_for(config):
            text = f"its changed file failed ({rollback.reason}), so it runs as before: correct the file"
            self._note(record, "rolled_back", config, found.later, text)
            return
        text = ""
        if any(one.reload_class is ReloadClass.RESTART for one in found.later):
            if account_id in self._together:
                self._restarts.withdraw(account_id)
                manual = config.reload.restart == "manual"
                text = "" if manual else self._rollouts.offer()
            else:
                text = self._restarts.offer(record, found.target, config, alone=account_id in self._alone)
        self._note(record, "pending", config, found.later, explain(account_id, found.later, text))

    def _note(
        self,
        record: WorkerRecord,
        state_name: str,
        config: AccountConfig,
        found: Sequence[FieldChange],
        text: str,
    ) -> None:
        state = {
            "state": state_name,
            "file": config_version(config),
            "text": text[:_TEXT],
            "changes": [one.to_dict() for one in found[:_MAX_CHANGES]],
        }
        data = event_data(record.config_version, config_version(config), found)
        self._changes.note(record.account_id, record.worker_id, state, data)


def _if_same(record: WorkerRecord, running: KeptConfig | None, loaded: LoadedAccount) -> AccountConfig | None:
    """Return the configuration of a file if the worker certainly runs with it, else None."""
    config = loaded.config
    if config is None or config_version(config) != record.config_version:
        return None
    if running is None:
        return config
    return config if running.confirmed and running.hide(config) == running.config else None
