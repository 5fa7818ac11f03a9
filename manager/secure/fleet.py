"""`manager secure`: a directory with all files for a private Redis."""

import hashlib
import os
import re
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

from manager.errors import SettingsError
from manager.secure import rights
from manager.secure.certificates import (
    CA_CERT,
    REDIS_CERT,
    REDIS_KEY,
    certificate_names,
    make_certificates,
)
from manager.settings import HOST_NAME
from manager.system import atomic_file

ACL_FILE: Final = "users.acl"
CONF_FILE: Final = "redis.conf"
#: Users of every fleet, and the purpose of each.
USERS: Final = {
    "manager": "for the command line and services that send commands",
    "reader": "for read-only access",
    "flower": "for Flower",
    "api": "for the HTTP API",
    "recorder": "for a recorder of history",
    "notify": "for a notifier",
}


#: A client without a user name cannot log in, because the user `default` is off and has no password. It needs
#: all rights nevertheless: Redis replays its append-only file as this user, and skips transactions that it
#: has no right to.
_DEFAULT_USER: Final = "user default off resetpass allkeys allchannels +@all"


#: A line of the ACL file that this module wrote.
_GENERATED_LINE: Final = re.compile(
    r"user (?P<user>manager|reader|flower|api|recorder|notify|host-\S+) on #(?P<digest>[0-9a-f]{64}) "
)
#: Host names, IPv4 and IPv6 addresses.
_REDIS_NAME: Final = re.compile(r"[A-Za-z0-9._:-]{1,253}")


@dataclass(frozen=True, slots=True)
class Created:
    """What one call has written."""

    directory: Path
    files: tuple[Path, ...]
    #: The new users.
    users: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PreviousSetup:
    """The arguments of the last `init`; the defaults if it never ran."""

    redis_names: tuple[str, ...] = ("localhost", "127.0.0.1")
    port: int = 6379
    tls: bool = True


class SecureDirectory:
    """One directory with the fleet's authority, users and URLs.

    Every file has mode 0600.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def init(
        self, *, hosts: Sequence[str], redis_names: Sequence[str], port: int, days: int, tls: bool = True
    ) -> Created:
        """Write a new certificate and configuration for Redis, and what is missing.

        Creates the authority, users and URLs that do not exist. Existing users keep their passwords and get
        new rights and URLs. `days` is the validity of the certificate. Raises SettingsError.
        """
        self._prepare()
        for name in redis_names:
            if not _REDIS_NAME.fullmatch(name):
                raise SettingsError(f"{name!r} is not a valid host name or address: correct --redis-host")
        files = make_certificates(self.directory, redis_names, days) if tls else []
        users = [*USERS, *(self._host_user(host) for host in hosts)]
        known = self._renew_rights()
        place = f"[{redis_names[0]}]" if ":" in redis_names[0] else redis_names[0]
        query = {"ssl_cert_reqs": "required", "ssl_ca_certs": str((self.directory / CA_CERT).absolute())}
        end = f"?{urlencode(query, safe='/')}" if tls else ""
        url = _Url("rediss" if tls else "redis", f"{place}:{port}/0{end}")
        for user in known:
            self._update_url(user, url)
        new = [user for user in dict.fromkeys(users) if user not in known]
        for user in new:
            self._add(user, url)
        files.append(
            atomic_file.write(self.directory / CONF_FILE, self._conf(port, tls=tls).encode(), durable=True)
        )
        created = [*files, self.directory / ACL_FILE, *(self.url_file(user) for user in new)]
        return Created(self.directory, tuple(created), tuple(new))

    def previous_setup(self) -> PreviousSetup:
        """Return the arguments of the last `init`, from the files that it wrote.

        A renewed certificate must keep the names that the fleet's URLs use.
        """
        try:
            conf = (self.directory / CONF_FILE).read_text()
        except (OSError, UnicodeDecodeError):
            return PreviousSetup()
        tls = re.search(r"^tls-port (\d+)$", conf, re.MULTILINE)
        plain = re.search(r"^port (\d+)$", conf, re.MULTILINE)
        port = tls or plain
        url = _Url.read(self.url_file("manager"))
        names = certificate_names(self.directory) if tls is not None else ()
        if not names and url is not None:
            names = (url.rest.partition("/")[0].rpartition(":")[0].strip("[]"),)
        return PreviousSetup(
            names or PreviousSetup().redis_names,
            int(port[1]) if port else PreviousSetup().port,
            tls is not None,
        )

    def add_host(self, host: str) -> Created:
        """Add a user for a host, with the same address as the manager's URL.

        Raises SettingsError if `init` has not run, or if the host already has a user.
        """
        url = _Url.read(self.url_file("manager"))
        if url is None or not (self.directory / ACL_FILE).exists():
            raise SettingsError(
                f"{self.directory} does not contain {self.url_file('manager').name} and {ACL_FILE}: run "
                "`manager secure init` first"
            )
        user = self._host_user(host)
        if user in self._renew_rights():
            raise SettingsError(
                f"{self.directory / ACL_FILE} already contains the user {user}: its URL is in "
                f"{self.url_file(user)}"
            )
        self._add(user, url)
        return Created(self.directory, (self.directory / ACL_FILE, self.url_file(user)), (user,))

    def url_file(self, user: str) -> Path:
        return self.directory / f"{user}.url"

    # inside

    def _prepare(self) -> None:
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if sys.platform != "win32":
                os.chmod(self.directory, 0o700)  # noqa: PTH101
        except OSError as error:
            raise SettingsError(
                f"{self.directory}: {error.strerror}: choose another directory with --dir"
            ) from None

    def _renew_rights(self) -> list[str]:
        """Rewrite the rights of our users as this version defines them.

        Returns their names. Other lines of the ACL file are not changed. Raises SettingsError.
        """
        path = self.directory / ACL_FILE
        try:
            before = path.read_text().splitlines() if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} cannot be read ({error}): correct or restore the file") from None
        known: list[str] = []
        lines = [_DEFAULT_USER]
        for line in before:
            found = _GENERATED_LINE.match(line)
            if found is not None:
                known.append(found["user"])
                line = _acl_line(found["user"], found["digest"])  # noqa: PLW2901
            if line.strip() and not line.startswith("user default "):
                lines.append(line)
        atomic_file.write(path, "".join(f"{line}\n" for line in lines).encode(), durable=True)
        return known

    def _add(self, user: str, url: "_Url") -> None:
        password = secrets.token_urlsafe(32)
        path = self.directory / ACL_FILE
        # Write the URL before the ACL line: the password of a user without a URL file would be lost.
        atomic_file.write(
            self.url_file(user), url.of(f"{quote(user)}:{quote(password)}").encode(), durable=True
        )
        line = _acl_line(user, hashlib.sha256(password.encode()).hexdigest())
        atomic_file.write(path, path.read_bytes() + line.encode() + b"\n", durable=True)

    def _update_url(self, user: str, url: "_Url") -> None:
        """Rewrite the address in the user's URL file, if that file still exists."""
        before = _Url.read(self.url_file(user))
        if before is not None and before.of(before.credentials) != url.of(before.credentials):
            atomic_file.write(self.url_file(user), url.of(before.credentials).encode(), durable=True)

    @staticmethod
    def _host_user(host: str) -> str:
        if not HOST_NAME.fullmatch(host):
            raise SettingsError(
                f"{host!r} is not a valid host name: use 1 to 63 letters, digits, '.', '_' or '-', and "
                "begin with a letter or digit"
            )
        return f"host-{host}"

    def _conf(self, port: int, *, tls: bool) -> str:
        def at(name: str) -> str:
            text = str(self.directory.absolute() / name)
            return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

        listen = (
            f"port 0\ntls-port {port}\ntls-cert-file {at(REDIS_CERT)}\ntls-key-file {at(REDIS_KEY)}\n"
            f'tls-ca-cert-file {at(CA_CERT)}\ntls-auth-clients no\ntls-protocols "TLSv1.2 TLSv1.3"\n'
            if tls
            else f"port {port}\n"
        )
        return (
            "# For a Redis that only this fleet uses. Written by `manager secure init`.\n"
            f"{listen}aclfile {at(ACL_FILE)}\n"
            "appendonly yes\nappendfsync everysec\nmaxmemory-policy noeviction\n"
            "# Redis disconnects a client that sends a larger value.\n"
            "proto-max-bulk-len 16mb\nclient-query-buffer-limit 32mb\n"
        )


@dataclass(frozen=True, slots=True)
class _Url:
    """A Redis URL, split so that the credentials can be replaced."""

    scheme: str
    #: Address, database and options.
    rest: str
    #: `USER:PASSWORD` of the file that it was read from; empty if there was none.
    credentials: str = ""

    @classmethod
    def read(cls, path: Path) -> "_Url | None":
        try:
            scheme, _, rest = path.read_text().strip().partition("://")
        except (OSError, UnicodeDecodeError):
            return None
        credentials, _, rest = rest.rpartition("@")
        return cls(scheme, rest, credentials)

    def of(self, credentials: str) -> str:
        """Return the URL with these credentials, as a line of a file."""
        return f"{self.scheme}://{credentials}@{self.rest}\n"


def _acl_line(user: str, digest: str) -> str:
    return " ".join([f"user {user} on #{digest} resetkeys resetchannels -@all", *_rights_of(user)])


def _rights_of(user: str) -> list[str]:
    match user:
        case "manager":
            return rights.manager_rights()
        case "reader":
            return rights.reader_rights()
        case "flower":
            return rights.flower_rights()
        case "api":
            return rights.api_rights()
        case "recorder":
            return rights.recorder_rights()
        case "notify":
            return rights.notifier_rights()
        case _:
            return rights.host_rights(user.removeprefix("host-"))
