"""Runs the checks of `manager doctor`, in order."""

from typing import Final

from manager.doctor.accounts import config, files_gone, wanted, workers
from manager.doctor.check import Check, Context, Step
from manager.doctor.host_agents import host_agents
from manager.doctor.redis_server import redis_server
from manager.doctor.this_machine import secrets, state, versions
from manager.errors import FleetUnavailableError, ManagerError
from manager.factory import desired_store, fleet_store
from manager.fleet import safe_url
from manager.settings import Settings
from manager.system.storage import explain

_STEPS: Final[tuple[Step, ...]] = (
    ("versions", versions),
    ("config", config),
    ("secrets", secrets),
    ("state", state),
    ("redis", redis_server),
    ("host_agent", host_agents),
    ("workers", workers),
    ("wanted", wanted),
    ("file_gone", files_gone),
)


def run_checks(settings: Settings) -> list[Check]:
    """Run every check; one that cannot look is itself a finding, and the others follow."""
    context = Context(settings, fleet_store(settings), desired_store(settings))
    checks: list[Check] = []
    for code, step in _STEPS:
        try:
            checks.extend(step(context))
        except FleetUnavailableError as error:
            # What comes after it would find the same.
            checks.append(
                Check(
                    code="redis",
                    outcome="failure",
                    where=safe_url(context.store.url),
                    found=str(error),
                    advice="cure that first: hosts, workers and desired state were not looked at",
                )
            )
            break
        except (ManagerError, OSError) as error:
            checks.append(_failed(code, error, settings))
    return checks


def _failed(code: str, error: ManagerError | OSError, settings: Settings) -> Check:
    """Return the finding that a step could not look; errors end with what to do, after a colon."""
    text = explain(error, settings.state_dir) if isinstance(error, OSError) else str(error)
    places = {"state": str(settings.state_dir), "config": str(settings.config_dir)}
    found, _, advice = text.rpartition(": ")
    return Check(
        code=code,
        outcome="failure",
        where=places.get(code, "this machine"),
        found=found or text,
        advice=advice,
    )
