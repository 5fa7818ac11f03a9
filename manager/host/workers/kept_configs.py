"""The configurations that this host's workers run with, on disk.

A host agent that starts compares them with the account files. They have no password, but may hold other
secrets of an account file: mode 0600.
"""

import json
import logging
from pathlib import Path
from typing import Any, Final

from manager.config import AccountConfig
from manager.fleet.parsing import json_object
from manager.system import atomic_file, logs
from manager.system.private_dirs import ensure_private_dir
from manager.system.storage import explain

logger = logging.getLogger(__name__)

#: Bytes. An account file may have 256 KiB.
_MAX_SIZE: Final = 1 << 20


class KeptConfigs:
    """One file for each account: the configuration of its present or last worker."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, worker_id: str, config: AccountConfig, *, confirmed: bool = True) -> bool:
        """Write the configuration of a worker; return whether that succeeded. A failure is logged.

        `confirmed` False: the session may have another one, which differs only in keys that need no restart.
        """
        path = self._path(config.account_id)
        data: dict[str, Any] = {
            "worker_id": worker_id,
            "config": config.model_dump(mode="json", exclude={"password"}),
        }
        if not confirmed:
            data["confirmed"] = False
        try:
            ensure_private_dir(self._directory)
            atomic_file.write(path, json.dumps(data))
        except OSError as error:
            logs.event(
                logger,
                logging.WARNING,
                "config_not_kept",
                f"{explain(error, path)}; a change of its file cannot be compared until its next start",
                account=config.account_id,
            )
            return False
        return True

    def load(self, account_id: str, worker_id: str) -> AccountConfig | None:
        """Return the configuration of a worker; None if it is unknown."""
        data = self._read(account_id, worker_id)
        try:
            return None if data is None else AccountConfig.model_validate(data.get("config"))
        except ValueError:
            return None

    def confirmed(self, account_id: str, worker_id: str) -> bool:
        """Return whether the session certainly has the configuration that `load` returns."""
        data = self._read(account_id, worker_id)
        return data is not None and data.get("confirmed", True) is True

    def _read(self, account_id: str, worker_id: str) -> dict[str, Any] | None:
        path = self._path(account_id)
        try:
            if path.stat().st_size > _MAX_SIZE:
                return None
            data = json_object(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return data if data is not None and data.get("worker_id") == worker_id else None

    def remove(self, account_id: str) -> None:
        """Remove the file of a forgotten account."""
        try:
            self._path(account_id).unlink(missing_ok=True)
        except OSError as error:
            logs.event(logger, logging.WARNING, "config_not_removed", explain(error, self._path(account_id)))

    def _path(self, account_id: str) -> Path:
        return self._directory / f"{account_id}.json"
