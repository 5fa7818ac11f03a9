"""A hanging file share.

Processes with `slow_share_site` on PYTHONPATH wait when they open a held account file.
"""

from pathlib import Path
from typing import Final

#: The environment variable with the configuration directory whose files may hang.
DIRECTORY: Final = "SLOW_SHARE"


def hold(config_dir: Path, name: str) -> None:
    """Make every process that opens the account file `name` wait from now on."""
    (config_dir / f".hold-{name}").touch()


def release(config_dir: Path, name: str) -> None:
    """Let waiting processes continue. Idempotent."""
    (config_dir / f".hold-{name}").unlink(missing_ok=True)
