"""Starts a host agent: Celery's worker command with our options."""

import os

from manager import wire
from manager.fleet.urls import fleet_address
from manager.settings import Settings
from manager.system.child_process import celery_argv, run_in_place


def agent_argv(settings: Settings) -> list[str]:
    """Return the command line of this host's agent.

    It contains no secret, because the Redis URL comes from the environment.
    """
    return celery_argv(
        "worker",
        *("-P", "threads", "-c", str(settings.agent_threads)),
        *("-Q", f"{wire.SHARED_QUEUE},{wire.host_queue(settings.host)}"),
        *("-n", f"agent@{settings.host}"),
        *("--without-gossip", "--without-mingle", "--loglevel", settings.log_level),
    )


def agent_environment(settings: Settings) -> dict[str, str]:
    """Return the agent's environment: all variables of this process.

    The agent resolves `env:` credentials, so it needs every variable.
    """
    # Only the agent gets the log file: two processes that rotate one file would lose lines.
    log = {} if settings.log_file is None else {"MANAGER_LOG_FILE": str(settings.log_file)}
    return {**os.environ, **shared_settings(settings), **log}


def shared_settings(settings: Settings) -> dict[str, str]:
    """Return the settings that all processes of one machine share.

    The result is a mapping of environment variables. Raises SettingsError if MANAGER_REDIS_URL is invalid,
    because a Celery process would report it with a traceback.
    """
    fleet_address(settings)
    given = {name: value for name, value in os.environ.items() if name.startswith("MANAGER_")}
    given.pop("MANAGER_LOG_FILE", None)
    return {
        **given,
        "MANAGER_CONFIG_DIR": str(settings.config_dir),
        "MANAGER_STATE_DIR": str(settings.state_dir),
        "MANAGER_HOST": settings.host,
    }


def run_agent(settings: Settings) -> int:
    """Run the agent in the foreground, in place of this process where possible."""
    return run_in_place(agent_argv(settings), agent_environment(settings))
