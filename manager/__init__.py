"""Worker Manager: a fleet of trading workers, one process per account."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from manager.versions import __version__ as __version__

if TYPE_CHECKING:
    from manager.config import AccountConfig as AccountConfig
    from manager.config import ConfigurationService as ConfigurationService
    from manager.errors import AccountNotFoundError as AccountNotFoundError
    from manager.errors import CommandTimeoutError as CommandTimeoutError
    from manager.errors import FleetUnavailableError as FleetUnavailableError
    from manager.errors import HostUnavailableError as HostUnavailableError
    from manager.errors import InvalidConfigError as InvalidConfigError
    from manager.errors import ManagerError as ManagerError
    from manager.errors import NoWorkerError as NoWorkerError
    from manager.errors import StartFailedError as StartFailedError
    from manager.errors import StopFailedError as StopFailedError
    from manager.factory import get_worker_manager_service as get_worker_manager_service
    from manager.host import WorkerPoolManager as WorkerPoolManager
    from manager.models import BatchResult as BatchResult
    from manager.models import ValidationResult as ValidationResult
    from manager.models import WorkerCreationRequest as WorkerCreationRequest
    from manager.models import WorkerInfo as WorkerInfo
    from manager.placement.labels import Selection as Selection
    from manager.service import WorkerManagerService as WorkerManagerService
    from manager.states import WorkerHealth as WorkerHealth
    from manager.states import WorkerLifecycleStatus as WorkerLifecycleStatus
    from manager.validation import AccountConfigurationValidator as AccountConfigurationValidator

#: Public name → its module, imported on first use so that `manager --help` does not import Celery.
_EXPORTS: Final[dict[str, str]] = {
    # the service
    "get_worker_manager_service": "manager.factory",
    "WorkerManagerService": "manager.service",
    "WorkerPoolManager": "manager.host",
    # payloads
    "WorkerCreationRequest": "manager.models",
    "WorkerInfo": "manager.models",
    "ValidationResult": "manager.models",
    "BatchResult": "manager.models",
    "WorkerLifecycleStatus": "manager.states",
    "WorkerHealth": "manager.states",
    "Selection": "manager.placement.labels",
    # configuration
    "AccountConfig": "manager.config",
    "ConfigurationService": "manager.config",
    "AccountConfigurationValidator": "manager.validation",
    # errors
    "ManagerError": "manager.errors",
    "AccountNotFoundError": "manager.errors",
    "InvalidConfigError": "manager.errors",
    "NoWorkerError": "manager.errors",
    "StartFailedError": "manager.errors",
    "StopFailedError": "manager.errors",
    "HostUnavailableError": "manager.errors",
    "FleetUnavailableError": "manager.errors",
    "CommandTimeoutError": "manager.errors",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'manager' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
