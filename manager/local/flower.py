"""How Flower is started: for looking only, behind a password where one is given."""

import os
import subprocess
import sys
from pathlib import Path

from manager.environment import clean_environment
from manager.errors import SettingsError
from manager.local.agent import shared_settings
from manager.settings import Settings


def flower_argv(settings: Settings, port: int) -> list[str]:
    """Return Flower's command line. It holds no secret: those come by the environment."""
    return [
        *(sys.executable, "-m", "celery", "-A", "tasks", "flower"),
        *(f"--address={settings.flower_address}", f"--port={port}"),
        # Whoever reaches the page, or its API, can stop nothing and send nothing.
        *("--read_only=true", "--logging=warning"),
    ]


def flower_environment(settings: Settings) -> dict[str, str]:
    """Return Flower's environment: its own settings, ours, and no other secret. Raises SettingsError."""
    own = {name: value for name, value in os.environ.items() if name.startswith("FLOWER_")}
    if settings.flower_auth_file is not None:
        own["FLOWER_BASIC_AUTH"] = ",".join(_users(settings.flower_auth_file))
    return clean_environment({**own, **shared_settings(settings)})


def run_flower(settings: Settings, port: int) -> int:
    """Run Flower in the foreground, in this process's place where the system allows that."""
    argv, environment = flower_argv(settings, port), flower_environment(settings)
    if sys.platform != "win32":
        os.execve(sys.executable, argv, environment)  # noqa: S606
    return subprocess.run(argv, env=environment, check=False).returncode


def _users(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"MANAGER_FLOWER_AUTH_FILE: {path}: {error.strerror}") from None
    users = [line.strip() for line in lines if line.strip()]
    if not users or any(":" not in user or "," in user for user in users):
        raise SettingsError(f"MANAGER_FLOWER_AUTH_FILE: {path}: each line is USER:PASSWORD, without a comma")
    return users
