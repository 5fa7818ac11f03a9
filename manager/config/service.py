"""ConfigurationService: the accounts of one configuration directory."""

import contextlib
import difflib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from manager.config import credentials
from manager.config.as_written import as_written
from manager.config.document import Document, read_document
from manager.config.ids import checked_id, id_problem
from manager.config.left_out import LeftOut, left_out
from manager.config.loaded import Defaults, LoadedAccount, defaults_problems, load
from manager.config.merge import merge, own_values
from manager.config.models import BUILT_IN, AccountConfig, GlobalDefaults
from manager.config.program_defaults import applicable_defaults
from manager.config.references import Resolved, resolve_values
from manager.config.schedule_file import SCHEDULES_FILE, ScheduleFile, load_schedules
from manager.config.shared_programs import SharedPrograms, shared_programs
from manager.errors import AccountNotFoundError, InvalidConfigError
from manager.system import atomic_file

Stamp = tuple[int, int, int]

#: Maximum age of the list of other accounts' names when one account is checked.
_TWINS_SECONDS: Final = 1.0

#: The stamp of a missing file.
_ABSENT: Final[Stamp] = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Cached:
    stamps: tuple[Stamp | None, Stamp | None]
    loaded: LoadedAccount


#: (server, login) → all accounts with this login.
Logins = Mapping[tuple[str, str], tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All accounts, as read in one pass over the directory."""

    accounts: Mapping[str, LoadedAccount]
    logins: Logins
    #: Account → the first account whose ID differs only in case: on Windows they are one file.
    twins: Mapping[str, str]
    shared: SharedPrograms
    schedules: ScheduleFile


class ConfigurationService:
    """Reads and writes account files.

    Thread-safe. A file is parsed again only after it changed. The directory contains `defaults.yaml`,
    `accounts/<account id>.yaml`, and the files of `file:` credentials with relative paths.
    """

    def __init__(self, config_dir: Path | str) -> None:
        self.config_dir = Path(config_dir)
        self._lock = threading.Lock()
        self._cache: dict[tuple[str, bool], _Cached] = {}
        self._defaults: tuple[Stamp | None, Defaults] | None = None
        self._schedules: tuple[Stamp | None, ScheduleFile] | None = None
        self._snapshot: tuple[float, Snapshot] | None = None

    @property
    def files_dir(self) -> Path:
        """The directory of `defaults.yaml` and `accounts/`.

        Relative paths within these files start at `config_dir`, on each host.
        """
        return self.config_dir

    @property
    def version(self) -> int | None:
        """The version number of these files, or None if they have none."""
        return None

    @property
    def accounts_dir(self) -> Path:
        return self.files_dir / "accounts"

    @property
    def defaults_path(self) -> Path:
        return self.files_dir / "defaults.yaml"

    @property
    def schedules_path(self) -> Path:
        return self.files_dir / SCHEDULES_FILE

    def checked_id(self, account_id: str) -> str:
        """Return the ID. Raises InvalidAccountIdError if it is not valid."""
        return checked_id(account_id)

    def account_path(self, account_id: str) -> Path:
        """Return the path of the account's file.

        Raises:
            InvalidAccountIdError: The ID is not valid.
            AccountNotFoundError: The file does not exist.
        """
        path = self._path(checked_id(account_id))
        if not os.path.lexists(path):
            raise AccountNotFoundError(
                f"no account {account_id}: {path} does not exist{self._similar(account_id)}"
            )
        return path

    def list_accounts(self) -> list[str]:
        """Return the IDs of all accounts, sorted.

        Files whose names are not valid account IDs are skipped.
        Raises InvalidConfigError if the directory cannot be read.
        """
        return [name for name in self.file_names() if id_problem(name) is None]

    def file_names(self) -> list[str]:
        """Return the stems of all YAML files in `accounts/`, sorted.

        Hidden files and editors' files are skipped.
        Raises InvalidConfigError if the directory cannot be read.
        """
        try:
            with os.scandir(self.accounts_dir) as entries:
                return sorted(
                    entry.name.removesuffix(".yaml")
                    for entry in entries
                    if entry.name.endswith(".yaml") and not entry.name.startswith((".", "#", "~"))
                )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InvalidConfigError(
                f"{self.accounts_dir}: {error.strerror}: "
                "set MANAGER_CONFIG_DIR to the configuration directory"
            ) from None

    def left_out(self) -> list[LeftOut]:
        """Return unread files that seem meant to be read.

        Contains `accounts/` if it has no account.
        """
        return left_out(self.files_dir)

    def twin(self, account_id: str) -> str | None:
        """Return the first account with the same ID except for case, or None."""
        return self.snapshot(_TWINS_SECONDS).twins.get(account_id)

    def load_account_config(self, account_id: str, apply_defaults: bool = True) -> AccountConfig:
        """Return the account's complete configuration.

        With `apply_defaults`, missing keys come from `defaults.yaml` and the built-in defaults. Without it,
        missing required keys are errors. Ranges are not checked; the validator does that.

        Raises:
            InvalidAccountIdError: The ID is not valid.
            AccountNotFoundError: The account's file does not exist.
            InvalidConfigError: The files have structural problems; the text has one line for each.
        """
        loaded = self.read_account(account_id, apply_defaults)
        if loaded.config is None:
            raise InvalidConfigError("\n".join(map(str, loaded.problems)))
        return loaded.config

    def read_account(self, account_id: str, apply_defaults: bool = True) -> LoadedAccount:
        """Read the account's files.

        Return the configuration and all problems with positions.

        The content of the files never causes an exception.

        Raises:
            InvalidAccountIdError: The ID is not valid.
            AccountNotFoundError: The account's file does not exist.
        """
        path = str(self.account_path(account_id))
        return self._read(account_id, path, self._defaults_now() if apply_defaults else None)

    def snapshot(self, max_age: float = 0.0, on_read: Callable[[str], None] | None = None) -> Snapshot:
        """Return all accounts, with defaults applied.

        An earlier snapshot is returned if it is at most `max_age` seconds old. Unchanged files are not read
        again. `on_read` is called with each account that is read. Raises InvalidConfigError if the directory
        cannot be read.
        """
        now = time.monotonic()
        with self._lock:
            last = self._snapshot
        if last is not None and now - last[0] < max_age:
            return last[1]
        defaults = self._defaults_now()
        directory = str(self.accounts_dir) + os.sep
        accounts: dict[str, LoadedAccount] = {}
        for name in self.file_names():
            if (name, True) in self._cache or id_problem(name) is None:
                path = f"{directory}{name}.yaml"
                loaded = self._read(name, path, defaults)
                # An account without content may have been deleted after the directory was listed.
                if loaded.repaired is not None or os.path.lexists(path):
                    accounts[name] = loaded
                    if on_read is not None:
                        on_read(name)
        schedules = self.schedules()
        if last is not None and last[1].schedules is schedules and _same(last[1].accounts, accounts):
            found = last[1]
        else:
            built = [loaded.repaired for loaded in accounts.values() if loaded.repaired is not None]
            found = Snapshot(accounts, _logins(accounts), _twins(accounts), shared_programs(built), schedules)
        with self._lock:
            self._snapshot = (now, found)
        return found

    def load_global_defaults(self) -> GlobalDefaults:
        """Return the content of `defaults.yaml`, empty if the file is missing.

        Raises InvalidConfigError if the file has problems.
        """
        document = self._defaults_now()[1].document
        if document.problems or document.data is None:
            raise InvalidConfigError("\n".join(map(str, document.problems)))
        return GlobalDefaults.model_validate(document.data)

    def schedules(self) -> ScheduleFile:
        """Return the content of `schedules.yaml`, with its problems.

        The same object until the file changes.
        """
        stamp = _stamp(str(self.schedules_path))
        with self._lock:
            if self._schedules is not None and self._schedules[0] == stamp is not None:
                return self._schedules[1]
        if stamp == _ABSENT:
            found = ScheduleFile()
        else:
            found = load_schedules(read_document(str(self.schedules_path), SCHEDULES_FILE))
        with self._lock:
            self._schedules = (stamp, found)
        return found

    def save_account_config(self, config: AccountConfig) -> Path:
        """Write the account's file atomically with mode 0600; returns its path.

        Values equal to the defaults are omitted, unless the file already has the key. An existing file keeps
        its comments and the order of its keys.

        Raises:
            InvalidAccountIdError: The ID is not valid.
            InvalidConfigError: The file cannot be written.
        """
        path = self._path(checked_id(config.account_id))
        data = config.model_dump(mode="json", exclude={"account_id"}, exclude_none=True)
        if config.password is not None:
            data["password"] = config.password.get_secret_value()
        defaults = applicable_defaults(self._defaults_now()[1].merged, data)
        yaml = YAML()
        yaml.preserve_quotes = True
        yaml.width = 110
        yaml.indent(mapping=2, sequence=4, offset=2)
        existing: Any = None
        with contextlib.suppress(OSError, YAMLError, ValueError):
            existing = yaml.load(path.read_text(encoding="utf-8"))
        written = existing if isinstance(existing, dict) else {}
        data = own_values(data, written, defaults)
        if isinstance(existing, dict):
            _update(existing, data)
            data = existing
        text = StringIO()
        yaml.dump(data, text)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic_file.remove_left_drafts(path.parent)
            atomic_file.write(path, text.getvalue(), durable=True)
        except OSError as error:
            raise InvalidConfigError(f"{path} cannot be written: {error.strerror}") from None
        return path

    def resolve_password(self, config: AccountConfig) -> SecretStr | None:
        """Return the account's password, or None if it has none.

        Raises CredentialError, whose text contains no secret.
        """
        return None if config.password is None else credentials.resolve(config.password, self.config_dir)

    def resolve_values(self, config: AccountConfig) -> Resolved:
        """Return `environment` and `options` with references resolved.

        Raises CredentialError, whose text names the key.
        """
        return resolve_values(config, self.config_dir)

    # internal

    def _path(self, account_id: str) -> Path:
        return self.accounts_dir / f"{account_id}.yaml"

    def _similar(self, account_id: str) -> str:
        try:
            known = self.list_accounts()
        except InvalidConfigError:
            return ""
        close = difflib.get_close_matches(account_id, known, n=3)
        if close:
            return f"; did you mean {' or '.join(close)}?"
        return "; `manager init` writes the first files" if not known else ""

    def _read(
        self, account_id: str, path: str, defaults: "tuple[Stamp | None, Defaults] | None"
    ) -> LoadedAccount:
        stamps = (_stamp(path), _ABSENT if defaults is None else defaults[0])
        key = (account_id, defaults is not None)
        cached = self._cache.get(key)
        if cached is not None and cached.stamps == stamps and None not in stamps:
            return cached.loaded
        document = as_written(read_document(path, f"accounts/{account_id}.yaml"))
        loaded = load(account_id, document, None if defaults is None else defaults[1])
        with self._lock:
            self._cache[key] = _Cached(stamps, loaded)
        return loaded

    def _defaults_now(self) -> "tuple[Stamp | None, Defaults]":
        stamp = _stamp(str(self.defaults_path))
        with self._lock:
            if self._defaults is not None and self._defaults[0] == stamp is not None:
                return self._defaults
        if stamp == _ABSENT:
            document = Document("defaults.yaml", "", {})
        else:
            document = as_written(read_document(str(self.defaults_path), "defaults.yaml"))
            problems = defaults_problems(document)
            if problems:
                document = Document("defaults.yaml", document.text, document.data or {}, problems)
        found = (stamp, Defaults(document, merge(BUILT_IN, document.data or {})))
        with self._lock:
            self._defaults = found
        return found


def _same(before: Mapping[str, LoadedAccount], now: Mapping[str, LoadedAccount]) -> bool:
    return len(before) == len(now) and all(before.get(name) is loaded for name, loaded in now.items())


def _logins(accounts: Mapping[str, LoadedAccount]) -> Logins:
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for account_id, loaded in accounts.items():
        login = None if loaded.repaired is None else loaded.repaired.broker_login()
        if login is not None:
            found[login] = (*found.get(login, ()), account_id)
    return found


def _twins(names: Iterable[str]) -> dict[str, str]:
    first: dict[str, str] = {}
    return {
        name: first[name.lower()] for name in sorted(names) if first.setdefault(name.lower(), name) != name
    }


def _stamp(path: str) -> Stamp | None:
    """Return a value that changes with the file, or None.

    None if the file's status is unknown; then nothing is cached.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - three times as fast as Path.stat, and called for every file
    except OSError:
        return None if os.path.lexists(path) else _ABSENT
    return found.st_mtime_ns, found.st_size, found.st_ino


def _update(existing: Any, data: Mapping[str, Any]) -> None:
    """Update a commented mapping to `data`, changing only what differs."""
    for key in [key for key in existing if key not in data]:
        del existing[key]
    for key, value in data.items():
        present = existing.get(key)
        if isinstance(present, dict) and isinstance(value, dict):
            _update(present, value)
        elif isinstance(present, list) and isinstance(value, list) and len(present) == len(value):
            for index, (old, new) in enumerate(zip(present, value, strict=True)):
                if isinstance(old, dict) and isinstance(new, dict):
                    _update(old, new)
                elif old != new:
                    present[index] = new
        elif key not in existing or present != value:
            existing[key] = value
