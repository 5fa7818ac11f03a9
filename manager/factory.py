"""The composition root for everyone who imports `manager`."""

import threading
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
    from manager.client.celery_pool import CeleryWorkerPool

_lock: Final = threading.Lock()
_instance: WorkerManagerService | None = None


def get_worker_manager_service(
    config_service: AccountConfigs | None = None,
    worker_pool: WorkerPool | None = None,
    validator: Validator | None = None,
    singleton: bool = True,
) -> WorkerManagerService:
    """Return the service, wired from the environment's settings but for the parts that are given.

    With `singleton` (the default) the service becomes the process's one, and a call without parts returns that one;
    a call with parts makes a new one in its place. With `singleton=False` a new one is made and the process's one is
    left alone. Thread-safe. Connects to nothing: that happens at the first command. What the parts need is in
    `WorkerManagerService`.
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
    """Forget the process's one service, as after the environment has changed. Stops nothing."""
    global _instance  # noqa: PLW0603
    with _lock:
        _instance = None


def celery_worker_pool(
    settings: Settings, config_service: AccountConfigs | None = None
) -> "CeleryWorkerPool":
    """Return the pool that sends commands to the fleet of these settings.

    `config_service` knows the accounts; without it the files of the settings do.
    """
    # Celery costs a quarter of a second to import: a service with a pool of its own does without.
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
    """Return the fleet's shared state of these settings."""
    return FleetStore(
        fleet_url(settings),
        stale_after_seconds=settings.stale_after_seconds,
        events_kept=settings.events_kept,
    )


def desired_store(settings: Settings) -> DesiredStore:
    """Return what the fleet of these settings has been told its accounts should be."""
    return DesiredStore(fleet_url(settings))


def fleet_hosts(settings: Settings) -> FleetHosts:
    """Return the hosts of the fleet of these settings."""
    return FleetHosts(
        fleet_store(settings), desired_store(settings), audit_trail(settings), LeaseStore(fleet_url(settings))
    )


def audit_trail(settings: Settings) -> AuditTrail:
    """Return the audit trail of the fleet of these settings."""
    return AuditTrail(fleet_url(settings))


def config_store(settings: Settings) -> ConfigStore:
    """Return the account files that were pushed to the fleet of these settings."""
    return ConfigStore(fleet_url(settings))


def configuration(settings: Settings) -> ConfigurationService:
    """Return the account files of these settings: a directory's, or the fleet's."""
    if settings.config_source == "directory":
        return ConfigurationService(settings.config_dir)
    paths = StatePaths(settings.state_dir)
    paths.create()
    return FleetConfigurationService(settings.config_dir, paths, config_store(settings))


def build_service(settings: Settings) -> WorkerManagerService:
    """Return a service for exactly these settings."""
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
