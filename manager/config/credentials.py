"""Credentials by reference.

The schemes are `env:NAME`, `file:PATH`, `keyring:SERVICE/USER`, and those of plug-ins. References are
resolved only on the host that runs the account. No message contains a resolved value.
"""

import os
import stat
import sys
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from manager.errors import CredentialError
from manager.system.regular_files import NotRegularError, read_regular_file
from manager.system.secret_text import SecretTextError, clean_secret, decode_secret

#: (text after the scheme, configuration directory) → the secret. Raises CredentialError.
Resolver = Callable[[str, Path], str]

#: Maximum size of a secret's file in bytes.
_MAX_SIZE: Final = 64 * 1024

ENTRY_POINTS: Final = "manager.credentials"


def scheme_of(reference: str) -> str | None:
    """Return the scheme of a reference, or None for a literal password."""
    scheme, colon, rest = reference.partition(":")
    return scheme if colon and rest and scheme in resolvers() else None


def resolve(reference: SecretStr, config_dir: Path, *, lines: bool = False) -> SecretStr:
    """Return the secret that `reference` names.

    A literal is returned unchanged.

    With `lines`, the secret may have several lines.

    Raises CredentialError if there is no secret, or if its text is ambiguous: see
    `manager.system.secret_text`.
    """
    text = reference.get_secret_value()
    scheme = scheme_of(text)
    if scheme is None:
        return reference
    rest = text.partition(":")[2]
    try:
        if scheme == "file":
            secret = decode_secret(_from_file(rest, config_dir), lines=lines)
        elif scheme in _BUILT_IN:
            secret = clean_secret(_BUILT_IN[scheme](rest, config_dir), lines=lines)
        else:
            secret = resolvers()[scheme](rest, config_dir)
    except SecretTextError as error:
        where = f": {_file_path(rest, config_dir)}" if scheme == "file" else ""
        raise CredentialError(f"{scheme}:{rest}{where} {error}") from None
    if not secret:
        raise CredentialError(f"{scheme}:{rest} is empty")
    return SecretStr(secret)


def too_open(reference: SecretStr, config_dir: Path) -> str | None:
    """Return a warning if other users may read the file of a reference."""
    text = reference.get_secret_value()
    if sys.platform == "win32" or scheme_of(text) != "file":
        return None
    path = _file_path(text.partition(":")[2], config_dir)
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return None
    return f"{path} may be read by others (mode {mode:04o}): chmod 600 it" if mode & 0o077 else None


def file_of(reference: SecretStr, config_dir: Path) -> Path | None:
    """Return the file that a reference names, or None."""
    scheme, _, rest = reference.get_secret_value().partition(":")
    return Path(_file_path(rest, config_dir)) if scheme == "file" and rest else None


def watch(reference: SecretStr | None, config_dir: Path) -> Callable[[], object] | None:
    """Return a cheap change detector for a credential, or None.

    None if its scheme has none. The result (file status, or presence of the variable) changes when the
    credential may have changed. The result contains no secret.
    """
    text = "" if reference is None else reference.get_secret_value()
    scheme, rest = scheme_of(text), text.partition(":")[2]
    if scheme is None:
        return lambda: None
    if scheme == "env":
        return lambda: bool(os.environ.get(rest))
    if scheme == "file":
        path = _file_path(rest, config_dir)
        return lambda: _file_state(path)
    return None


def _file_path(name: str, config_dir: Path) -> str:
    # `os.path` instead of Path, here and below: several times as fast, and called for every account.
    return os.path.join(config_dir, os.path.expanduser(name))  # noqa: PTH111, PTH118


def _file_state(path: str) -> object:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError as error:
        return error.errno
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode


@cache
def resolvers() -> Mapping[str, Resolver]:
    """Return the resolvers of all schemes.

    Cached per process, because reading entry points is slow.
    """
    plugged = {point.name: point.load() for point in entry_points(group=ENTRY_POINTS)}
    return {
        **plugged,
        **_BUILT_IN,
        "file": lambda name, config_dir: decode_secret(_from_file(name, config_dir)),
    }


def _from_environment(name: str, _config_dir: Path) -> str:
    value = os.environ.get(name)
    if value is None:
        raise CredentialError(
            f"env:{name}: the environment variable {name} is not set where the host agent runs: "
            "set it there, or use file:"
        )
    return value


def _from_file(name: str, config_dir: Path) -> bytes:
    path = _file_path(name, config_dir)
    try:
        raw = read_regular_file(path, _MAX_SIZE)
    except FileNotFoundError:
        raise CredentialError(f"file:{name}: {path} is missing") from None
    except NotRegularError:
        raise CredentialError(f"file:{name}: {path} is not a regular file") from None
    except OSError as error:
        raise CredentialError(f"file:{name}: {path}: {error.strerror}") from None
    if len(raw) > _MAX_SIZE:
        raise CredentialError(f"file:{name}: {path} is longer than {_MAX_SIZE} bytes: it is not a password")
    return raw


def _from_keyring(name: str, _config_dir: Path) -> str:
    service, slash, user = name.rpartition("/")
    if not slash or not service or not user:
        raise CredentialError(f"keyring:{name}: write keyring:SERVICE/USER")
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError:
        raise CredentialError(
            f"keyring:{name}: the package keyring is not installed here: "
            "pip install 'worker-manager[keyring]'"
        ) from None
    try:
        found = keyring.get_password(service, user)
    except KeyringError as error:
        raise CredentialError(f"keyring:{name}: {error}") from None
    if found is None:
        raise CredentialError(f"keyring:{name}: no such entry; `keyring set {service} {user}` makes one")
    return str(found)


_BUILT_IN: Final[Mapping[str, Resolver]] = {"env": _from_environment, "keyring": _from_keyring}
