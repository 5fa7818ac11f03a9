"""`manager secure`: everything that a private Redis needs, in one directory, made once and added to later."""

import hashlib
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

from manager.errors import SettingsError
from manager.secure import rights
from manager.secure.certificates import CA_CERT, REDIS_CERT, REDIS_KEY, make_certificates
from manager.secure.files import write_private
from manager.settings import HOST_NAME

ACL_FILE: Final = "users.acl"
CONF_FILE: Final = "redis.conf"
#: Users that every fleet has, and what each is for.
USERS: Final = {
    "manager": "the command line and services that command the fleet",
    "reader": "who only looks",
    "flower": "Flower",
}


#: Whoever gives no name is nobody: the user is off, and has no password by which it could be on. It has every right all the
#: same, because Redis replays its append-only file as this user, and leaves out each transaction that it may not do.
_NOBODY: Final = "user default off resetpass allkeys allchannels +@all"


@dataclass(frozen=True, slots=True)
class Made:
    """What was made."""

    directory: Path
    files: tuple[Path, ...]
    #: Users that are new.
    users: tuple[str, ...]


class SecureDirectory:
    """One directory with the fleet's authority, users and URLs; everything in it is mode 0600."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def init(
        self, *, hosts: Sequence[str], redis_names: Sequence[str], port: int, days: int, tls: bool = True
    ) -> Made:
        """Make what is missing: authority, Redis's certificate (always a new one), users, URLs, Redis's configuration.

        Users that there are keep their passwords. Raises SettingsError.
        """
        self._prepare()
        for name in redis_names:
            if not name or any(c.isspace() or c in "/@?#" for c in name):
                raise SettingsError(f"{name!r} is no name or address that a Redis could have")
        files = make_certificates(self.directory, redis_names, days) if tls else []
        users = [*USERS, *(self._host_user(host) for host in hosts)]
        new = self._add(users, redis_names[0], port, tls=tls)
        conf = self._conf(port, tls=tls)
        files.append(write_private(self.directory / CONF_FILE, conf.encode()))
        made = [*files, self.directory / ACL_FILE, *(self.url_file(user) for user in new)]
        return Made(self.directory, tuple(made), tuple(new))

    def add_host(self, host: str) -> Made:
        """Add a host's user; its URL is like the manager's. Raises SettingsError if there is no such directory yet."""
        try:
            url = self.url_file("manager").read_text()
            lines = (self.directory / ACL_FILE).read_text()
        except OSError as error:
            raise SettingsError(
                f"{self.directory}: {error.strerror} ({error.filename}): `manager secure init` makes it first"
            ) from None
        user = self._host_user(host)
        if f"user {user} " in lines:
            raise SettingsError(f"{self.directory / ACL_FILE} has a user {user} already")
        place, _, query = url.strip().rpartition("@")[2].partition("/0")
        scheme = url.partition("://")[0]
        self._write_user(user, f"{scheme}://{{}}@{place}/0{query}")
        return Made(self.directory, (self.directory / ACL_FILE, self.url_file(user)), (user,))

    def url_file(self, user: str) -> Path:
        return self.directory / f"{user}.url"

    # inside

    def _prepare(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if sys.platform != "win32":
                os.chmod(self.directory, 0o700)  # noqa: PTH101
        except OSError as error:
            raise SettingsError(f"{self.directory}: {error.strerror}: choose another with --dir") from None

    def _add(self, users: Sequence[str], redis_name: str, port: int, *, tls: bool) -> list[str]:
        path = self.directory / ACL_FILE
        # Always anew: version 0.1 wrote another.
        others = [line for line in _lines(path) if not line.startswith("user default ")]
        write_private(path, "".join(f"{line}\n" for line in [_NOBODY, *others]).encode())
        known = path.read_text()
        new = [user for user in dict.fromkeys(users) if f"user {user} " not in known]
        place = f"[{redis_name}]" if ":" in redis_name else redis_name
        query = {"ssl_cert_reqs": "required", "ssl_ca_certs": str((self.directory / CA_CERT).absolute())}
        end = f"?{urlencode(query, safe='/')}" if tls else ""
        for user in new:
            self._write_user(user, f"{'rediss' if tls else 'redis'}://{{}}@{place}:{port}/0{end}")
        return new

    def _write_user(self, user: str, url: str) -> None:
        password = secrets.token_urlsafe(32)
        digest = hashlib.sha256(password.encode()).hexdigest()
        line = " ".join([f"user {user} on #{digest} resetkeys resetchannels -@all", *_rights_of(user)])
        path = self.directory / ACL_FILE
        # First the URL: a user whose password is nowhere could never log in.
        write_private(self.url_file(user), (url.format(f"{quote(user)}:{quote(password)}") + "\n").encode())
        write_private(path, path.read_bytes() + line.encode() + b"\n")

    @staticmethod
    def _host_user(host: str) -> str:
        if not HOST_NAME.fullmatch(host):
            raise SettingsError(
                f"{host!r} is no host's name: 1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit"
            )
        return f"host-{host}"

    def _conf(self, port: int, *, tls: bool) -> str:
        where = self.directory.absolute()
        listen = (
            f"port 0\ntls-port {port}\ntls-cert-file {where / REDIS_CERT}\ntls-key-file {where / REDIS_KEY}\n"
            f'tls-ca-cert-file {where / CA_CERT}\ntls-auth-clients no\ntls-protocols "TLSv1.2 TLSv1.3"\n'
            if tls
            else f"port {port}\n"
        )
        return (
            "# For the Redis of one fleet; nobody else's data in it. Made by `manager secure init`.\n"
            f"{listen}aclfile {where / ACL_FILE}\n"
            "appendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\n"
            "# A client that sends more than this in one value is cut off.\n"
            "proto-max-bulk-len 16mb\nclient-query-buffer-limit 32mb\n"
        )


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _rights_of(user: str) -> list[str]:
    match user:
        case "manager":
            return rights.manager_rights()
        case "reader":
            return rights.reader_rights()
        case "flower":
            return rights.flower_rights()
        case _:
            return rights.host_rights(user.removeprefix("host-"))
