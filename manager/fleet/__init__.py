"""The fleet's shared state in Redis."""

from manager.fleet.hosts import HostState
from manager.fleet.store import Event, FleetStore
from manager.fleet.urls import celery_url, fleet_url, safe_url

__all__ = ["Event", "FleetStore", "HostState", "celery_url", "fleet_url", "safe_url"]
