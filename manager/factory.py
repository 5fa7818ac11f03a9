"""The composition root: builds the service and its parts from settings."""

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from manager.change.config_push import FleetConfigurationService
from manager.client.hosts import FleetHosts
from manager.config import ConfigurationService
from manager.fleet import FleetStore, fleet_url
from manager.fleet.audit import AuditTrail
from manager.fleet.batches import BatchStore
from manager.fleet.config_versions import ConfigStore
from manager.fleet.desired_store import DesiredStore
from manager.fleet.leases import LeaseStore
from manager.pool.protocol import WorkerPool
from manager.service import WorkerManagerService
from manager.settings import Settings, load_settings
from manager.system.state_dir import StatePaths
from manager.validation import AccountConfigs, KnownAccounts, Validator

if TYPE_CHECKING:
    from manager.client.approvals import FleetApprovals
    from manager.client.celery_pool import CeleryWorkerPool
    from manager.client.rollouts import FleetRollouts
    from manager.client.schedules import FleetSchedules
    from manager.telemetry.fleet_reader import AccountFile
    from manager.telemetry.view import FleetView

_lock: Final = threading.Lock()
_instance: WorkerManagerService | None = None


def get_worker_manager_service(
    config_service: AccountConfigs | None = None,
    worker_pool: WorkerPool | None = None,
    validator: Validator | None = None,
    singleton: bool = True,
) -> WorkerManagerService:
    """Return the service, built from the environment and the given parts.

    With `singleton` (the default) the process has one service: a call without parts returns it, and a call
    with parts replaces it. With `singleton=False` the call builds a separate one. Thread-safe. Opens no
    connection: the first command does. `WorkerManagerService` describes what the parts must provide.
    """
    global _instance  # noqa: PLW0603 - the one singleton of the project
    given = config_service is not None or worker_pool is not None or validator is not None
    if not singleton:
        return _build(config_service, worker_pool, validator)
    with _lock:
        if _instance is None or given:
            _instance = _build(config_service, worker_pool, validator)
        return _instance


def reset_worker_manager_service() -> None:
    """Discard the process's service; for example, the environment changed.

    Stops no worker.
    """
    global _instance  # noqa: PLW0603
    with _lock:
        _instance = None


def celery_worker_pool(
    settings: Settings, config_service: AccountConfigs | None = None
) -> "CeleryWorkerPool":
    """Return the pool that sends commands to the fleet of these settings.

    It looks up accounts in `config_service`, or in the configuration of the settings.
    """
    # Importing Celery takes a quarter of a second, and a service with another pool does not need it.
    from manager.client.celery_app import sender_app
    from manager.client.celery_pool import CeleryWorkerPool

    return CeleryWorkerPool(
        sender_app(fleet_url(settings)),
        fleet_store(settings),
        desired_store(settings),
        LeaseStore(fleet_url(settings)),
        BatchStore(fleet_url(settings)),
        command_timeout_seconds=settings.command_timeout_seconds,
        audit=audit_trail(settings),
        account_files=KnownAccounts(config_service or configuration(settings)),
    )


def fleet_store(settings: Settings) -> FleetStore:
    """Return the store of hosts, workers and events."""
    return FleetStore(
        fleet_url(settings),
        stale_after_seconds=settings.stale_after_seconds,
        events_kept=settings.events_kept,
    )


def live_view(settings: Settings) -> "FleetView":
    """Return a live view of the fleet, not started."""
    # These cost milliseconds that `manager ps` does without.
    from manager.fleet.live_reads import LiveReads
    from manager.telemetry.view import FleetView

    url = fleet_url(settings)
    return FleetView(
        LiveReads(url, events_kept=settings.events_kept),
        DesiredStore(url),
        stale_after_seconds=settings.stale_after_seconds,
    )


def account_files(service: WorkerManagerService) -> "Mapping[str, AccountFile]":
    """Return what the account files on this machine say."""
    from manager.telemetry.fleet_reader import AccountFile

    found: dict[str, AccountFile] = {}
    for account_id, loaded in service.select().items():
        config = None if loaded is None else loaded.repaired
        if loaded is None or config is None:
            found[account_id] = AccountFile(enabled=None, readable=False)
            continue
        found[account_id] = AccountFile(
            enabled=config.enabled if loaded.config is not None else None,
            gateway=config.gateway,
            groups=config.groups,
            labels=config.labels,
        )
    return found


def desired_store(settings: Settings) -> DesiredStore:
    """Return the store of desired states."""
    return DesiredStore(fleet_url(settings))


def fleet_hosts(settings: Settings) -> FleetHosts:
    """Return the commands for hosts: list, drain, resume, forget."""
    return FleetHosts(
        fleet_store(settings), desired_store(settings), audit_trail(settings), LeaseStore(fleet_url(settings))
    )


def fleet_schedules(settings: Settings) -> "FleetSchedules":
    """Return the schedules of the accounts of these settings, and their overrides."""
    from manager.client.schedules import FleetSchedules
    from manager.fleet.overrides import OverrideStore

    return FleetSchedules(
        configuration(settings),
        OverrideStore(fleet_url(settings), events_kept=settings.events_kept),
        desired_store(settings),
        audit_trail(settings),
    )


def fleet_approvals(settings: Settings) -> "FleetApprovals":
    """Return what approves held changes of account files."""
    from manager.client.approvals import FleetApprovals
    from manager.fleet.approvals import ApprovalStore

    return FleetApprovals(fleet_store(settings), ApprovalStore(fleet_url(settings)), audit_trail(settings))


def fleet_rollouts(settings: Settings) -> "FleetRollouts":
    """Return the rollouts of the fleet."""
    from manager.change.rollout_store import RolloutStore
    from manager.client.rollouts import FleetRollouts

    return FleetRollouts(
        RolloutStore(fleet_url(settings)),
        fleet_store(settings),
        desired_store(settings),
        audit_trail(settings),
    )


def audit_trail(settings: Settings) -> AuditTrail:
    """Return the fleet's audit trail."""
    return AuditTrail(fleet_url(settings))


def config_store(settings: Settings) -> ConfigStore:
    """Return the store of pushed account files."""
    return ConfigStore(fleet_url(settings))


def configuration(settings: Settings) -> ConfigurationService:
    """Return the account files: of the directory, or as pushed to the fleet."""
    if settings.config_source == "directory":
        return ConfigurationService(settings.config_dir)
    paths = StatePaths(settings.state_dir)
    paths.create()
    return FleetConfigurationService(settings.config_dir, paths, config_store(settings))


def build_service(settings: Settings) -> WorkerManagerService:
    """Return a service for these settings."""
    files = configuration(settings)
    return WorkerManagerService(files, celery_worker_pool(settings, files))


def _build(
    config_service: AccountConfigs | None,
    worker_pool: WorkerPool | None,
    validator: Validator | None,
) -> WorkerManagerService:
    settings = load_settings()
    config_service = config_service or configuration(settings)
    pool = worker_pool or celery_worker_pool(settings, config_service)
    return WorkerManagerService(config_service, pool, validator)
