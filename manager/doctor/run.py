"""Runs the checks of `manager doctor` one after the other."""

from typing import Final

from manager.doctor.accounts import config, files_gone, not_running, workers
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
    ("wanted", not_running),
    ("file_gone", files_gone),
)


def run_checks(settings: Settings) -> list[Check]:
    """Run every check and return the findings.

    A check that fails becomes a finding itself, and the next checks run. If Redis does not answer, the checks
    that need it are left out.
    """
    context = Context(settings, fleet_store(settings), desired_store(settings))
    checks: list[Check] = []
    for code, step in _STEPS:
        try:
            checks.extend(step(context))
        except FleetUnavailableError as error:
            # Every later check needs Redis too.
            checks.append(
                Check(
                    code="redis",
                    outcome="failure",
                    where=safe_url(context.store.url),
                    found=str(error),
                    advice="fix this first: hosts, workers and desired state were not checked",
                )
            )
            break
        except (ManagerError, OSError) as error:
            checks.append(_failed(code, error, settings))
    return checks


def _failed(code: str, error: ManagerError | OSError, settings: Settings) -> Check:
    """Return the finding that a step failed.

    The text of an error ends with what to do, after the last colon.
    """
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
