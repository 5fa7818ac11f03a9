"""Finds exposed secrets: readable files, and URLs without TLS checks."""

import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from pydantic import SecretStr

from manager.config import ConfigurationService, credentials, literals, scheme_of
from manager.config.environment_files import environment_path
from manager.config.placeholders import fill_placeholders
from manager.config.references import content, references
from manager.errors import ManagerError
from manager.settings import Settings

#: URL values that turn the check off in redis-py, kombu and Python's ssl.
_NO_CHECK: Final = frozenset(
    {"none", "cert_none", "ssl.cert_none", "0", "false", "no", "verifymode.cert_none"}
)


def url_problem(url: str) -> str | None:
    """Return how a Redis URL turns the check of the server off, or None.

    The text contains only that option, and no other part of the URL.
    """
    try:
        query = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        return None
    for name, value in query:
        if name.lower() == "ssl_cert_reqs" and value.strip().lower() in _NO_CHECK:
            return (
                f"ssl_cert_reqs={value}: an attacker who redirects the connection can impersonate this Redis"
            )
        if name.lower() == "ssl_check_hostname" and value.strip().lower() in _NO_CHECK:
            return (
                f"ssl_check_hostname={value}: any server with a certificate of this authority can "
                "impersonate this Redis"
            )
    return None


def open_files(settings: Settings) -> list[str]:
    """Return the files with secrets that other users of this machine can access.

    Each entry is `PATH (mode 0644): content`. Empty on Windows.
    """
    if sys.platform == "win32":
        return []
    found: dict[Path, str] = {}
    for path, what in _files(settings):
        if path not in found:
            found[path] = what
    return [
        f"{path} (mode {mode:04o}): {what}"
        for path, what in found.items()
        if (mode := _mode(path)) is not None and mode & 0o077
    ]


def _files(settings: Settings) -> Iterator[tuple[Path, str]]:
    for setting, path in (
        ("MANAGER_REDIS_URL_FILE", settings.redis_url_file),
        ("MANAGER_FLOWER_AUTH_FILE", settings.flower_auth_file),
    ):
        if path is not None:
            yield path.expanduser(), setting
    service = ConfigurationService(settings.config_dir)
    try:
        accounts = service.snapshot().accounts
    except ManagerError:
        return  # the check `config` reports this error
    for account_id, loaded in accounts.items():
        config = loaded.repaired
        if config is None:
            continue
        config = fill_placeholders(config, None).config
        for name in config.environment_file:
            yield environment_path(name, settings.config_dir), f"variables of account {account_id}"
        password = [] if config.password is None else [config.password.get_secret_value()]
        for text in (*password, *(reference for _, reference in references(config))):
            path = credentials.file_of(SecretStr(text), settings.config_dir)
            if path is not None:
                yield path, f"a secret of account {account_id}"
        in_clear = any(text and scheme_of(text) is None for text in password)
        if in_clear or any(True for _ in literals(content(config))):
            yield (
                service.accounts_dir / f"{account_id}.yaml",
                f"account {account_id} with secrets in plain text",
            )


def _mode(path: Path) -> int | None:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
