"""The fleet's shared state in Redis."""

from manager.fleet.events import Event
from manager.fleet.hosts import HostState
from manager.fleet.store import FleetStore
from manager.fleet.urls import celery_url, fleet_url, safe_url

__all__ = ["Event", "FleetStore", "HostState", "celery_url", "fleet_url", "safe_url"]
