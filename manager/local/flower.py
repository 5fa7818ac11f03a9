"""How Flower is started: for looking only, behind a password where one is given."""

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

#: Bytes of the file of Flower's users.
_MAX_USERS_FILE: Final = 64 * 1024


def flower_argv(settings: Settings, port: int) -> list[str]:
    """Return Flower's command line. It holds no secret: users come by a file. Raises SettingsError if that is none."""
    argv = celery_argv(
        "flower",
        *(f"--address={settings.flower_address}", f"--port={port}"),
        # Whoever reaches the page, or its API, can stop nothing and send nothing.
        *("--read_only=true", "--logging=warning"),
    )
    if settings.flower_auth_file is not None:
        users_of(settings)
        argv.append(f"--conf={Path(__file__).with_name('flower_users.py')}")
    return argv


def flower_environment(settings: Settings) -> dict[str, str]:
    """Return Flower's environment: its own settings, ours, and no other secret."""
    own = {name: value for name, value in os.environ.items() if name.startswith("FLOWER_")}
    return clean_environment({**own, **shared_settings(settings)})


def run_flower(settings: Settings, port: int) -> int:
    """Run Flower in the foreground, in this process's place where the system allows that."""
    return run_in_place(flower_argv(settings, port), flower_environment(settings))


def users_of(settings: Settings) -> list[str]:
    """Return Flower's users, each `USER:PASSWORD`; none without a file of them. Raises SettingsError."""
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
        raise SettingsError(f"MANAGER_FLOWER_AUTH_FILE: {path}: each line is USER:PASSWORD")
    return users
