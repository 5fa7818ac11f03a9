"""A share that hangs: processes started with `slow_share_site` on PYTHONPATH wait when they open a held account file."""

from pathlib import Path
from typing import Final

#: The environment variable that names the configuration directory whose files may hang.
DIRECTORY: Final = "SLOW_SHARE"


def hold(config_dir: Path, name: str) -> None:
    """Have whoever opens the account file `name` wait from now on."""
    (config_dir / f".hold-{name}").touch()


def release(config_dir: Path, name: str) -> None:
    """Let them go on. Idempotent."""
    (config_dir / f".hold-{name}").unlink(missing_ok=True)
