"""Account files that are pushed through Redis to every host."""

import difflib
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from manager.config import ConfigurationService, id_problem, scheme_of
from manager.config.check_progress import CheckProgress, report_read
from manager.config.clear_secrets import clear_secrets, masked_lines
from manager.config.document import parse_document, read_document
from manager.config.left_out import LeftOut
from manager.config.schedule_file import SCHEDULES_FILE
from manager.errors import AccountNotFoundError, InvalidConfigError, ManagerError
from manager.fleet.config_versions import ConfigStore, ConfigVersion
from manager.system import atomic_file, logs
from manager.system.state_dir import StatePaths
from manager.validation import AccountConfigurationValidator

logger: Final = logging.getLogger(__name__)

#: Seconds between two checks for a new version.
_CHECK_SECONDS: Final = 1.0
_CURRENT: Final = "current"


class FleetConfigurationService(ConfigurationService):
    """Reads the account files that were pushed to the fleet.

    Files that they refer to are below this machine's own `config_dir`. The state directory holds a copy of
    the last version that was read, which stays in use while Redis is unreachable. A version is used as a
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
        """See `ConfigurationService.account_path`.

        The error names the version instead of a directory.
        """
        try:
            return super().account_path(account_id)
        except AccountNotFoundError:
            if not self.version:
                raise AccountNotFoundError(
                    f"no account {account_id}: this host reads pushed files only, and none were pushed yet: "
                    "run `manager config push`"
                ) from None
            raise AccountNotFoundError(
                f"no account {account_id} in version {self.version} of the pushed "
                f"files{self._similar(account_id)}"
            ) from None

    @property
    def version(self) -> int | None:
        """The version that is in use here; 0: none."""
        _ = self.files_dir
        return self._version

    @property
    def files_dir(self) -> Path:
        now = time.monotonic()
        if self._directory is None or now >= self._until:
            with self._pulling:
                if self._directory is None or now >= self._until:
                    self._directory = self._current_directory()
                    self._until = time.monotonic() + _CHECK_SECONDS
        return self._directory

    def left_out(self) -> list[LeftOut]:
        """See `ConfigurationService.left_out`. Covers the pushed files only."""
        if self.version:
            return super().left_out()
        return [
            LeftOut(
                "accounts",
                "this machine reads pushed files only, and none were pushed yet: run `manager config push`",
            )
        ]

    def _current_directory(self) -> Path:
        root = self._paths.config_dir
        here = self._written_version(root)
        try:
            current = self._store.current()
            if current is not None and (here is None or here.name != _name(*current)):
                here = self._write_version(root, self._store.read(current[0]))
        except (ManagerError, OSError) as error:
            logs.event(logger, logging.WARNING, "config_not_read", f"{error}; the last version stays in use")
        if here is None:
            return root / "none"
        self._version = int(here.name.partition("-")[0])
        return here

    @staticmethod
    def _written_version(root: Path) -> Path | None:
        try:
            name = (root / _CURRENT).read_text().strip()
        except OSError:
            return None
        return root / name if name and (root / name).is_dir() else None

    @staticmethod
    def _write_version(root: Path, version: ConfigVersion) -> Path:
        directory = root / _name(version.version, version.hash)
        draft = root / f".{directory.name}.{os.getpid()}"
        shutil.rmtree(draft, ignore_errors=True)
        (draft / "accounts").mkdir(parents=True, mode=0o700)
        for path, text in version.files.items():
            if not _is_ours(path):
                logs.event(logger, logging.ERROR, "config_refused", f"{path[:100]!r} is not an account file")
                continue
            file = draft / path
            file.touch(mode=0o600)
            file.write_text(text, encoding="utf-8")
        try:
            draft.replace(directory)
        except OSError:
            # Another process of this machine has just written it: it is complete and has the same hash.
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
    service: ConfigurationService,
    *,
    allow_invalid: bool = False,
    allow_literals: bool = False,
    progress: CheckProgress | None = None,
) -> dict[str, str]:
    """Return the files of a directory as they would be pushed.

    `progress` is called with each account that is read, and with each that is checked.

    Raises InvalidConfigError, which lists each account whose file contains its password instead of a
    reference. Unless `allow_literals`, it also lists each value that looks like another secret. Unless
    `allow_invalid`, it also lists every error that makes an account invalid on all hosts, and each file that
    would be left out.
    """
    files: dict[str, str] = {}
    wrong: list[str] = []
    validator = AccountConfigurationValidator(service)
    results = {} if allow_invalid else validator.validate_for_any_host(progress)
    if not allow_invalid:
        wrong += map(str, service.left_out())
    if os.path.lexists(service.defaults_path):
        defaults = read_document(str(service.defaults_path), "defaults.yaml")
        if defaults.data is None:
            wrong.append(f"defaults.yaml cannot be read: {'; '.join(map(str, defaults.problems))}")
        files["defaults.yaml"] = defaults.text
    if os.path.lexists(service.schedules_path):
        schedules = read_document(str(service.schedules_path), SCHEDULES_FILE)
        if schedules.data is None or not allow_invalid:
            wrong += map(str, service.schedules().problems)
        files[SCHEDULES_FILE] = schedules.text
    for account_id in service.list_accounts():
        loaded = service.read_account(account_id)
        report_read(progress, account_id)
        if loaded.repaired is None:
            # It may contain secrets, which cannot be checked: it is never pushed.
            wrong.append(f"accounts/{account_id}.yaml cannot be read: {'; '.join(map(str, loaded.problems))}")
            continue
        password = loaded.repaired.password
        literal = password is not None and scheme_of(password.get_secret_value()) is None
        if literal and password is not None and password.get_secret_value():
            wrong.append(
                f"accounts/{account_id}.yaml contains its password: put it into env:, file: or keyring: on "
                "the host that runs the account, and refer to it"
            )
        elif account_id in results:
            wrong += results[account_id].errors
        files[f"accounts/{account_id}.yaml"] = service.account_path(account_id).read_text(encoding="utf-8")
    if not allow_literals:
        secrets = literal_secrets(files)
        wrong += secrets
        if secrets:
            wrong.append(
                "Redis stores pushed files: put secrets into env:, file: or keyring: on the host that runs "
                "the account, and refer to them; `--allow-literals REASON` pushes them unchanged"
            )
    if wrong:
        raise InvalidConfigError("nothing was pushed:\n" + "\n".join(wrong))
    return files


def checked(
    files: Mapping[str, str], config_dir: Path, *, allow_invalid: bool = False, allow_literals: bool = False
) -> dict[str, str]:
    """Return files that came from elsewhere as they would be pushed; see `collect`.

    `config_dir` is where relative paths in them start. Raises InvalidConfigError.
    """
    foreign = [path for path in files if not _is_ours(path)]
    if foreign:
        raise InvalidConfigError(
            f"nothing was pushed:\n{', '.join(map(repr, foreign[:10]))}: not defaults.yaml, "
            "schedules.yaml or accounts/<account id>.yaml"
        )
    with tempfile.TemporaryDirectory(prefix="manager-push-") as directory:
        (Path(directory) / "accounts").mkdir()
        for path, text in files.items():
            (Path(directory) / path).write_bytes(text.encode())
        return collect(
            _DraftFiles(config_dir, Path(directory)),
            allow_invalid=allow_invalid,
            allow_literals=allow_literals,
        )


class _DraftFiles(ConfigurationService):
    """Account files in a directory that exists for the time of a check."""

    def __init__(self, config_dir: Path, directory: Path) -> None:
        super().__init__(config_dir)
        self._directory = directory

    @property
    def files_dir(self) -> Path:
        return self._directory


def literal_secrets(files: Mapping[str, str]) -> list[str]:
    """Return the values that look like secrets in clear text.

    One line each, with the position but without the secret.
    """
    return [
        str(problem)
        for path, text in files.items()
        for problem in clear_secrets(parse_document(text, text.encode(), path))
    ]


def difference(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return a unified diff of two states of the files, secrets masked."""
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
    """Return whether a push writes such a path.

    Any client with access to Redis can write others.
    """
    parts = PurePosixPath(path).parts
    if parts in {("defaults.yaml",), (SCHEDULES_FILE,)}:
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
