"""Account files that travel through Redis: collected where they are written, and laid out where they are read."""

import difflib
import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from manager.config import ConfigurationService, id_problem, scheme_of
from manager.config.clear_secrets import clear_secrets, masked_lines
from manager.config.document import parse_document, read_document
from manager.config.left_out import LeftOut
from manager.errors import AccountNotFoundError, InvalidConfigError, ManagerError
from manager.fleet.config_versions import ConfigStore, ConfigVersion
from manager.system import atomic_file, logs
from manager.system.state_dir import StatePaths
from manager.validation import AccountConfigurationValidator

logger: Final = logging.getLogger(__name__)

#: Seconds between two looks for a new version.
_LOOK_SECONDS: Final = 1.0
_CURRENT: Final = "current"


class FleetConfigurationService(ConfigurationService):
    """The accounts that were pushed to the fleet; what they refer to is below this machine's own `config_dir`.

    The last version that was read is kept in the state directory: without Redis it goes on to count. A version is seen
    whole or not at all.
    """

    def __init__(self, config_dir: Path, paths: StatePaths, store: ConfigStore) -> None:
        super().__init__(config_dir)
        self._paths = paths
        self._store = store
        self._pulling = threading.Lock()
        self._directory: Path | None = None
        self._until = 0.0
        self._version = 0

    def account_path(self, account_id: str) -> Path:
        """See `ConfigurationService.account_path`; the error names the version, not a directory of this host's own."""
        try:
            return super().account_path(account_id)
        except AccountNotFoundError:
            if not self.version:
                raise AccountNotFoundError(
                    f"no account {account_id}: nothing was pushed yet (`manager config push`), and this host reads what is"
                ) from None
            raise AccountNotFoundError(
                f"no account {account_id} in version {self.version} of the pushed files{self._similar(account_id)}"
            ) from None

    @property
    def version(self) -> int | None:
        """The version that counts here now; 0: none."""
        _ = self.files_dir
        return self._version

    @property
    def files_dir(self) -> Path:
        now = time.monotonic()
        if self._directory is None or now >= self._until:
            with self._pulling:
                if self._directory is None or now >= self._until:
                    self._directory = self._look()
                    self._until = time.monotonic() + _LOOK_SECONDS
        return self._directory

    def left_out(self) -> list[LeftOut]:
        """See `ConfigurationService.left_out`; of this machine's own directory nothing is read, so nothing is left out."""
        if self.version:
            return super().left_out()
        return [
            LeftOut(
                "accounts", "nothing was pushed yet, and this machine reads what is: `manager config push`"
            )
        ]

    def _look(self) -> Path:
        root = self._paths.config_dir
        here = self._laid_out(root)
        try:
            current = self._store.current()
            if current is not None and (here is None or here.name != _name(*current)):
                here = self._lay_out(root, self._store.read(current[0]))
        except (ManagerError, OSError) as error:
            logs.event(logger, logging.WARNING, "config_not_read", f"{error}; what was read last counts")
        if here is None:
            return root / "none"
        self._version = int(here.name.partition("-")[0])
        return here

    @staticmethod
    def _laid_out(root: Path) -> Path | None:
        try:
            name = (root / _CURRENT).read_text().strip()
        except OSError:
            return None
        return root / name if name and (root / name).is_dir() else None

    @staticmethod
    def _lay_out(root: Path, version: ConfigVersion) -> Path:
        directory = root / _name(version.version, version.hash)
        draft = root / f".{directory.name}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "accounts").mkdir(parents=True, mode=0o700)
        for path, text in version.files.items():
            if not _is_ours(path):
                logs.event(logger, logging.ERROR, "config_refused", f"{path[:100]!r} is no account file")
                continue
            file = draft / path
            file.touch(mode=0o600)
            file.write_text(text, encoding="utf-8")
        try:
            draft.replace(directory)
        except OSError:
            # Another process of this machine has laid it out meanwhile; it is complete, and has the same name and hash.
            shutil.rmtree(draft, ignore_errors=True)
            if not directory.is_dir():
                raise
        atomic_file.write(root / _CURRENT, directory.name)
        for old in sorted(root.iterdir(), key=_number)[:-2]:
            if old.is_dir() and old != directory:
                shutil.rmtree(old, ignore_errors=True)
        logs.event(logger, logging.INFO, "config_read", version=version.version, files=len(version.files))
        return directory


def collect(
    service: ConfigurationService, *, allow_invalid: bool = False, allow_literals: bool = False
) -> dict[str, str]:
    """Return the files of a directory as they would be pushed.

    Raises InvalidConfigError, which names each account whose file holds a password instead of a reference to one,
    (but for `allow_literals`) each value that looks like another secret, and (but for `allow_invalid`) all that makes
    an account invalid on every host, and each file that would be left out.
    """
    files: dict[str, str] = {}
    wrong: list[str] = []
    results = {} if allow_invalid else AccountConfigurationValidator(service).validate_for_any_host()
    if not allow_invalid:
        wrong += map(str, service.left_out())
    if os.path.lexists(service.defaults_path):
        defaults = read_document(str(service.defaults_path), "defaults.yaml")
        if defaults.data is None:
            wrong.append(f"defaults.yaml cannot be read: {'; '.join(map(str, defaults.problems))}")
        files["defaults.yaml"] = defaults.text
    for account_id in service.list_accounts():
        loaded = service.read_account(account_id)
        if loaded.repaired is None:
            # Nobody can say what is in it, so it stays here whatever is allowed.
            wrong.append(f"accounts/{account_id}.yaml cannot be read: {'; '.join(map(str, loaded.problems))}")
            continue
        password = loaded.repaired.password
        literal = password is not None and scheme_of(password.get_secret_value()) is None
        if literal and password is not None and password.get_secret_value():
            wrong.append(
                f"accounts/{account_id}.yaml holds its password: put it into env:, file: or keyring: on the host that "
                "runs the account, and refer to it"
            )
        elif account_id in results:
            wrong += results[account_id].errors
        files[f"accounts/{account_id}.yaml"] = service.account_path(account_id).read_text(encoding="utf-8")
    if not allow_literals:
        secrets = literal_secrets(files)
        wrong += secrets
        if secrets:
            wrong.append(
                "what is pushed is kept in Redis: put secrets into env:, file: or keyring: on the host that runs the "
                "account, and refer to them; `--allow-literals REASON` pushes them as they are"
            )
    if wrong:
        raise InvalidConfigError("nothing was pushed:\n" + "\n".join(wrong))
    return files


def literal_secrets(files: Mapping[str, str]) -> list[str]:
    """Return what looks like a secret in clear in these files, a line each, with its position and without the secret."""
    return [
        str(problem)
        for path, text in files.items()
        for problem in clear_secrets(parse_document(text, text.encode(), path))
    ]


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return what changes between two states of the files, as lines of a unified diff, secrets masked."""
    lines: list[str] = []
    for path in sorted({*before, *now}):
        old, new = before.get(path), now.get(path)
        if old != new:
            changes = difflib.unified_diff(
                (old or "").splitlines(),
                (new or "").splitlines(),
                path if old is not None else "/dev/null",
                path if new is not None else "/dev/null",
                lineterm="",
            )
            lines += masked_lines(changes, {f"{path} before": old or "", path: new or ""})
    return lines


def _is_ours(path: str) -> bool:
    """Say whether the path is one that a push writes: whoever reaches Redis can write any."""
    parts = PurePosixPath(path).parts
    if parts == ("defaults.yaml",):
        return True
    return (
        len(parts) == 2
        and parts[0] == "accounts"
        and parts[1].endswith(".yaml")
        and id_problem(parts[1].removesuffix(".yaml")) is None
    )


def _name(version: int, digest: str) -> str:
    return f"{version}-{digest[:12]}"


def _number(path: Path) -> int:
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() else -1
