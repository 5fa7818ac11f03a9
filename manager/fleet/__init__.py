"""The fleet's shared state in Redis.

Names are imported at their first use: what needs no Redis, such as the types of events, can be used without
it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from manager.fleet.event_types import Event as Event
    from manager.fleet.hosts import HostState as HostState
    from manager.fleet.store import FleetStore as FleetStore
    from manager.fleet.urls import celery_url as celery_url
    from manager.fleet.urls import fleet_url as fleet_url
    from manager.fleet.urls import safe_url as safe_url

_EXPORTS: Final = {
    "Event": "manager.fleet.event_types",
    "FleetStore": "manager.fleet.store",
    "HostState": "manager.fleet.hosts",
    "celery_url": "manager.fleet.urls",
    "fleet_url": "manager.fleet.urls",
    "safe_url": "manager.fleet.urls",
}

__all__ = ["Event", "FleetStore", "HostState", "celery_url", "fleet_url", "safe_url"]


def __getattr__(name: str) -> Any:
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'manager.fleet' has no attribute {name!r}")
    return getattr(import_module(module), name)
