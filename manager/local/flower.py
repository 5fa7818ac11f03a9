"""Starts Flower: read-only, and with a password if users are configured."""

import os
from pathlib import Path
from typing import Final

from manager.errors import SettingsError
from manager.local.agent import shared_settings
from manager.settings import Settings
from manager.system.child_process import celery_argv, run_in_place
from manager.system.environment import clean_environment
from manager.system.regular_files import read_regular_file
from manager.system.secret_text import SecretTextError, decode_text, secret_problem

#: Largest size, in bytes, of the file of Flower's users.
_MAX_USERS_FILE: Final = 64 * 1024


def flower_argv(settings: Settings, port: int) -> list[str]:
    """Return Flower's command line.

    It contains no secret, because Flower reads its users from a file. Raises SettingsError if that file is
    invalid.
    """
    argv = celery_argv(
        "flower",
        *(f"--address={settings.flower_address}", f"--port={port}"),
        # A visitor of the page or its API must not be able to stop workers or send tasks.
        *("--read_only=true", "--logging=warning"),
    )
    if settings.flower_auth_file is not None:
        users_of(settings)
        argv.append(f"--conf={Path(__file__).with_name('flower_users.py')}")
    return argv


def flower_environment(settings: Settings) -> dict[str, str]:
    """Return Flower's environment: its settings, ours, and no other variable."""
    own = {name: value for name, value in os.environ.items() if name.startswith("FLOWER_")}
    return clean_environment({**own, **shared_settings(settings)})


def run_flower(settings: Settings, port: int) -> int:
    """Run Flower in the foreground, in place of this process where possible."""
    return run_in_place(flower_argv(settings, port), flower_environment(settings))


def users_of(settings: Settings) -> list[str]:
    """Return Flower's users, each `USER:PASSWORD`; empty without a users file.

    Raises SettingsError if the file cannot be read or has an invalid line.
    """
    path = settings.flower_auth_file
    if path is None:
        return []
    try:
        lines = decode_text(read_regular_file(str(path), _MAX_USERS_FILE)).splitlines()
    except (OSError, SecretTextError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"MANAGER_FLOWER_AUTH_FILE: {path}: {reason}") from None
    users = [line.strip() for line in lines if line.strip()]
    for number, user in enumerate(users, start=1):
        problem = secret_problem(user)
        if problem is not None:
            raise SettingsError(f"MANAGER_FLOWER_AUTH_FILE: {path}: user {number} {problem}")
    if not users or any(":" not in user for user in users):
        raise SettingsError(f"MANAGER_FLOWER_AUTH_FILE: {path}: write each line as USER:PASSWORD")
    return users
