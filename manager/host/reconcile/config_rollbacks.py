"""The configurations to which this host returns if a restart for a changed file fails."""

import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from manager.config import AccountConfig
from manager.config.hidden_values import dump_with_password
from manager.errors import InvalidConfigError, ManagerError
from manager.fleet.parsing import json_object
from manager.host.workers.kept_configs import KeptConfig
from manager.system import atomic_file, logs
from manager.system.private_dirs import ensure_private_dir
from manager.system.storage import explain

logger = logging.getLogger(__name__)

#: A restart that fails this often for a reason that may pass is taken back.
_MOST_FAILURES: Final = 2

#: Reads an account's file. Raises ManagerError.
LoadConfig = Callable[[], AccountConfig]


@dataclass(frozen=True, slots=True)
class ConfigRollback:
    """One restart for a changed file, and the configuration before it.

    `refused` is the configuration of the file, in the hidden form of `kept`. `generation` is that of the
    restart in desired state. `reason` says why the account returned; empty: it has not. `held`: there was no
    restart; `refused` waits for approval, and starts without a command use `kept`.
    """

    kept: KeptConfig
    refused: AccountConfig
    generation: int
    failures: int = 0
    reason: str = ""
    held: bool = False

    def is_for(self, config: AccountConfig) -> bool:
        """Return whether `config` is still the one that was tried."""
        return self.kept.hide(config) == self.refused

    def to_json(self) -> str:
        return json.dumps(
            {
                "kept": self.kept.to_record(),
                "refused": dump_with_password(self.refused),
                "generation": self.generation,
                "failures": self.failures,
                "reason": self.reason,
                "held": self.held,
            }
        )


def _parsed(text: str) -> ConfigRollback | None:
    data: dict[str, Any] | None = json_object(text)
    try:
        return (
            None
            if data is None
            else ConfigRollback(
                KeptConfig.from_record(data["kept"]),
                AccountConfig.model_validate(data["refused"]),
                int(data["generation"]),
                int(data["failures"]),
                str(data["reason"]),
                held=data.get("held") is True,
            )
        )
    except (KeyError, TypeError, ValueError):
        return None


class ConfigRollbacks:
    """One file for each restart that is not settled, and for each account that has returned. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.RLock()
        self._known = self._read_all()

    def begin(self, account_id: str, kept: KeptConfig, config: AccountConfig, generation: int) -> bool:
        """Record that a restart from `kept` to `config` begins; return whether that succeeded.

        If the account's last restart is not settled, the configuration before that one stays the one to
        return to.
        """
        last = self.find(account_id)
        if last is not None and not last.reason:
            kept = last.kept
        return self._save(account_id, ConfigRollback(kept, kept.hide(config), generation))

    def hold(self, account_id: str, kept: KeptConfig, config: AccountConfig, generation: int) -> None:
        """Record that `config` waits for approval while the worker of `generation` runs with `kept`."""
        self._save(account_id, ConfigRollback(kept, kept.hide(config), generation, held=True))

    def release(self, account_id: str) -> None:
        """Forget what waits for approval."""
        found = self.find(account_id)
        if found is not None and found.held:
            self.remove(account_id)

    def find(self, account_id: str) -> ConfigRollback | None:
        """Return what is recorded of the account."""
        with self._lock:
            return self._known.get(account_id)

    def unsettled(self) -> dict[str, ConfigRollback]:
        """Return the restarts of which it is unknown whether they succeed."""
        with self._lock:
            return {key: one for key, one in self._known.items() if not one.reason and not one.held}

    def failed(self, account_id: str, generation: int, reason: str, load: LoadConfig, *, final: bool) -> bool:
        """Count a failed start; return whether the account returns to its earlier configuration.

        `final`: another attempt would fail in the same way. `generation`: the command of the start.
        """
        found = self.find(account_id)
        if found is None or found.reason or found.held or found.generation != generation:
            return False
        failures = found.failures + 1
        if not final and failures < _MOST_FAILURES:
            self._save(account_id, replace(found, failures=failures))
            return False
        possible = self._possible(found, load)  # without the lock: it reads files
        with self._lock:
            if self._known.get(account_id) is not found:
                return False
            if possible:
                possible = self._save(account_id, replace(found, failures=failures, reason=reason))
            if not possible:
                self.remove(account_id)
            return possible

    def config_to_start(self, account_id: str, generation: int, load: LoadConfig) -> AccountConfig | None:
        """Return the earlier configuration if a start must use it, else None.

        That is so until the file changes or a command asks for a start. A file that changes again while an
        earlier change waits for approval waits too. Raises what `load` raises, and InvalidConfigError if a
        change waits for approval and the earlier configuration cannot be restored.
        """
        found = self.find(account_id)
        if found is None or not (found.reason or found.held):
            return None
        if found.generation == generation:
            config = load()
            earlier = found.kept.show(config) if found.held or found.is_for(config) else None
            if earlier is not None:
                return earlier
            if found.held:
                raise InvalidConfigError(
                    f"{account_id}: its changed file waits for approval, and it replaced a secret in clear "
                    f"text, so the earlier configuration is not known: `manager start {account_id}` starts "
                    "it with its file"
                )
        self.remove(account_id)
        return None

    def remove(self, account_id: str) -> None:
        """Forget the account's restart."""
        with self._lock:
            self._known.pop(account_id, None)
            path = self._path(account_id)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                logs.event(logger, logging.WARNING, "config_not_removed", explain(error, path))

    def _possible(self, found: ConfigRollback, load: LoadConfig) -> bool:
        try:
            config = load()
        except ManagerError:
            return False
        return found.is_for(config) and found.kept.show(config) is not None

    def _save(self, account_id: str, rollback: ConfigRollback) -> bool:
        path = self._path(account_id)
        with self._lock:
            try:
                ensure_private_dir(self._directory)
                atomic_file.write(path, rollback.to_json())
            except OSError as error:
                text = f"{explain(error, path)}; no restart for a changed file can be taken back"
                logs.event(logger, logging.WARNING, "config_not_kept", text, account=account_id)
                return False
            self._known[account_id] = rollback
            return True

    def _read_all(self) -> dict[str, ConfigRollback]:
        found: dict[str, ConfigRollback] = {}
        for path in self._directory.glob("*.json"):
            try:
                rollback = _parsed(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if rollback is not None:
                found[rollback.kept.config.account_id] = rollback
        return found

    def _path(self, account_id: str) -> Path:
        return self._directory / f"{account_id}.json"
