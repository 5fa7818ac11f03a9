"""The configurations that this host's workers run with, on disk.

A host agent that starts compares them with the account files. Values that may be secrets are kept as
digests; see `manager.config.hidden_values`.
"""

import json
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from manager.config import AccountConfig, config_version
from manager.config.hidden_values import dump_with_password, hide_values, show_values
from manager.fleet.parsing import json_object
from manager.system import atomic_file, logs
from manager.system.private_dirs import ensure_private_dir
from manager.system.storage import explain

logger = logging.getLogger(__name__)

#: Bytes. An account file may have 256 KiB.
_MAX_SIZE: Final = 1 << 20
#: Bytes.
_SALT: Final = 16


@dataclass(frozen=True, slots=True)
class KeptConfig:
    """The configuration of a worker, with digests in place of values that may be secret.

    `version` is that of the whole configuration. `confirmed` False: the session may have another one, which
    differs only in keys that need no restart.
    """

    worker_id: str
    config: AccountConfig
    version: str
    salt: bytes
    confirmed: bool = True

    @classmethod
    def of(cls, worker_id: str, config: AccountConfig) -> "KeptConfig":
        """Hide the values of a worker's configuration."""
        salt = secrets.token_bytes(_SALT)
        return cls(worker_id, hide_values(config, salt), config_version(config), salt)

    def hide(self, config: AccountConfig) -> AccountConfig:
        """Return another configuration in the form in which it can be compared with `self.config`."""
        return hide_values(config, self.salt)

    def show(self, source: AccountConfig) -> AccountConfig | None:
        """Return the configuration with its values; None if `source` does not have all that are hidden."""
        return show_values(self.config, source, self.salt)

    def to_record(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "worker_id": self.worker_id,
            "config": dump_with_password(self.config),
            "version": self.version,
            "salt": self.salt.hex(),
            "confirmed": self.confirmed,
        }

    @classmethod
    def from_record(cls, data: Mapping[str, Any]) -> Self:
        """Parse what `to_record` returned. Raises ValueError and KeyError."""
        return cls(
            str(data["worker_id"]),
            AccountConfig.model_validate(data["config"]),
            str(data["version"]),
            bytes.fromhex(str(data["salt"])),
            confirmed=data.get("confirmed") is True,
        )


class KeptConfigs:
    """One file for each account: the configuration of its present or last worker."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, kept: KeptConfig) -> bool:
        """Write the configuration of a worker; return whether that succeeded. A failure is logged."""
        path = self._path(kept.config.account_id)
        try:
            ensure_private_dir(self._directory)
            atomic_file.write(path, json.dumps(kept.to_record()))
        except OSError as error:
            logs.event(
                logger,
                logging.WARNING,
                "config_not_kept",
                f"{explain(error, path)}; a change of its file cannot be compared until its next start",
                account=kept.config.account_id,
            )
            return False
        return True

    def load(self, account_id: str, worker_id: str) -> KeptConfig | None:
        """Return the configuration of a worker; None if it is unknown."""
        path = self._path(account_id)
        try:
            if path.stat().st_size > _MAX_SIZE:
                return None
            data: dict[str, Any] = json_object(path.read_text(encoding="utf-8")) or {}
            if data.get("worker_id") != worker_id:
                return None
            return KeptConfig.from_record(data)
        except (OSError, ValueError, KeyError):
            return None

    def remove(self, account_id: str) -> None:
        """Remove the file of a forgotten account."""
        try:
            self._path(account_id).unlink(missing_ok=True)
        except OSError as error:
            logs.event(logger, logging.WARNING, "config_not_removed", explain(error, self._path(account_id)))

    def _path(self, account_id: str) -> Path:
        return self._directory / f"{account_id}.json"
