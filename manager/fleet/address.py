"""Parser of MANAGER_REDIS_URL for redis-py, kombu and Celery.

Each of the three parses URLs differently: one verifies certificates where another does not, one ignores an
option that another refuses. This module parses the URL once and refuses each option that it does not support,
by name. An error message never quotes the URL's values, because they may be secrets.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from manager.errors import SettingsError

Kind = Literal["tcp", "unix", "sentinel"]

#: Scheme → the kind of address, and whether the connection uses TLS.
_SCHEMES: Final[Mapping[str, tuple[Kind, bool]]] = {
    **dict.fromkeys(("redis", "valkey"), ("tcp", False)),
    **dict.fromkeys(("rediss", "valkeys", "tls", "redis+tls", "redis+ssl"), ("tcp", True)),
    **dict.fromkeys(("unix", "redis+socket", "redis+unix", "valkey+unix"), ("unix", False)),
    **dict.fromkeys(("sentinel", "redis+sentinel", "redis-sentinel", "valkey+sentinel"), ("sentinel", False)),
    **dict.fromkeys(("sentinels", "rediss+sentinel", "rediss-sentinel"), ("sentinel", True)),
}

_DATABASE: Final = ("db", "virtual_host", "database")
_MASTER: Final = ("master", "master_name", "service_name")
_TLS_SWITCH: Final = ("ssl", "tls")
_TLS_FILES: Final = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_OPTIONS: Final = frozenset(
    {
        *_DATABASE,
        *_MASTER,
        *_TLS_SWITCH,
        *_TLS_FILES,
        *("username", "password", "sentinel_username", "sentinel_password"),
        *("ssl_cert_reqs", "ssl_check_hostname"),
    }
)
#: Spellings of redis-py and Celery for the level of certificate checks.
_CERT_REQS: Final[Mapping[str, str]] = {
    **dict.fromkeys(("required", "cert_required"), "required"),
    **dict.fromkeys(("optional", "cert_optional"), "optional"),
    **dict.fromkeys(("none", "cert_none"), "none"),
}
_YES: Final = frozenset({"true", "1", "yes", "on"})
_NO: Final = frozenset({"false", "0", "no", "off"})

_NO_URL: Final = (
    "MANAGER_REDIS_URL cannot be read as redis://USER:PASSWORD@HOST:PORT/0: in a password, write / # ? @ : "
    "and % as %2F %23 %3F %40 %3A and %25"
)
_SENTINEL_FORM: Final = "sentinel://USER:PASSWORD@HOST1:26379,HOST2:26379,HOST3:26379/0?master=NAME"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,40}")
_PLACE: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9%._-]+)?)\]|(?P<host>[^\[\]:@,/\s]+))(?::(?P<port>\d{0,5}))?"
)


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """The address of the fleet's Redis and the login there.

    It holds secrets: show only `safe_url` of its URL.
    """

    kind: Kind
    #: Host and port of the server, or of each Sentinel.
    places: tuple[tuple[str, int | None], ...] = ()
    path: str = ""
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    #: TLS options of redis-py.
    tls_options: tuple[tuple[str, str | bool], ...] = ()
    #: The Sentinels' name for the group of servers.
    master: str = ""
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Return the passwords, plain and URL-encoded."""
        found = [one for one in (self.password, self.sentinel_password) if one]
        return tuple(dict.fromkeys([*found, *(quote(one, safe="") for one in found)]))

    @property
    def url(self) -> str:
        """Return the canonical URL.

        `parse_redis_url` parses it to an equal address.
        """
        query: dict[str, str] = {}
        if self.kind == "unix":
            if self.db:
                query["db"] = str(self.db)
            return f"unix://{self._credentials()}{quote(self.path)}{_query(query)}"
        if self.kind == "sentinel":
            query["master"] = self.master
            if self.sentinel_username:
                query["sentinel_username"] = self.sentinel_username
            if self.sentinel_password:
                query["sentinel_password"] = self.sentinel_password
        for name, value in self.tls_options:
            query[name] = str(value).lower() if isinstance(value, bool) else value
        scheme = ("sentinels" if self.tls else "sentinel") if self.kind == "sentinel" else self._scheme()
        places = ",".join(_place(host, port) for host, port in self.places)
        return f"{scheme}://{self._credentials()}{places}/{self.db}{_query(query)}"

    @property
    def celery_url(self) -> str:
        """Return the URL for a plain Celery app or Flower.

        For Sentinels, the group's name and the TLS options are separate settings of Celery.
        """
        if self.kind == "unix":
            query = {"virtual_host": str(self.db)} if self.db else {}
            return f"redis+socket://{self._credentials()}{quote(self.path)}{_query(query)}"
        if self.kind == "sentinel":
            return ";".join(
                f"sentinel://{self._credentials()}{_place(host, port)}/{self.db}"
                for host, port in self.places
            )
        place = ",".join(_place(host, port) for host, port in self.places)
        return f"{self._scheme()}://{self._credentials()}{place}/{self.db}{_query(self._tls_query())}"

    def _tls_query(self) -> dict[str, str]:
        return {
            name: str(value).lower() if isinstance(value, bool) else value for name, value in self.tls_options
        }

    def _scheme(self) -> str:
        return "rediss" if self.tls else "redis"

    def _credentials(self) -> str:
        if not (self.username or self.password):
            return ""
        password = f":{quote(self.password, safe='')}" if self.password else ""
        return f"{quote(self.username, safe='')}{password}@"


@lru_cache(maxsize=64)
def parse_redis_url(text: str) -> RedisAddress:
    """Parse a URL in the spelling of providers, redis-py, kombu or Celery.

    Raises SettingsError, whose one-line text names the unsupported part and never quotes a value.
    """
    text = _bare(text)
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise SettingsError(
            "MANAGER_REDIS_URL has no scheme: write redis://HOST:PORT/0, or rediss:// for TLS"
        )
    meaning = _SCHEMES.get(scheme.lower())
    if meaning is None:
        named = f"{scheme}://" if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,20}", scheme) else "this scheme"
        raise SettingsError(
            f"MANAGER_REDIS_URL: {named} is not supported; use redis://, rediss:// (TLS), unix:// or "
            "sentinel://"
        )
    kind, tls = meaning
    rest = _one_of_alternates(kind, scheme, rest)
    netloc, path, query = _split(rest)
    credentials, _, place = netloc.rpartition("@")
    options = _options(query)
    username, _, password = (unquote(part) for part in credentials.partition(":"))
    username, password = _login(username, password, options)
    tls = _tls(tls, kind, options)
    tls_options = _tls_options(tls, options)
    if kind != "sentinel":
        for name in (*_MASTER, "sentinel_username", "sentinel_password"):
            if name in options:
                raise SettingsError(f"MANAGER_REDIS_URL: the option {name} needs {_SENTINEL_FORM}")
    if kind == "unix":
        if place or not path.strip("/"):
            raise SettingsError(
                "MANAGER_REDIS_URL: a Unix socket is written as unix:///PATH, with three slashes"
            )
        return RedisAddress(
            "unix", path=unquote(path), db=_database("", options), username=username, password=password
        )
    places = _places(kind, place)
    master = ""
    if kind == "sentinel":
        master, path = _master(path, options)
    return RedisAddress(
        kind,
        places=places,
        db=_database(path, options),
        username=username,
        password=password,
        tls=tls,
        tls_options=tls_options,
        master=master,
        sentinel_username=options.get("sentinel_username", ""),
        sentinel_password=options.get("sentinel_password", ""),
    )


def _bare(text: str) -> str:
    """Remove surrounding white space and quotes, which copying adds."""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    if not text or any(char.isspace() or ord(char) < 32 for char in text):
        raise SettingsError(
            "MANAGER_REDIS_URL is not one URL: it contains white space, or nothing between quotes"
        )
    return text


def _one_of_alternates(kind: Kind, scheme: str, rest: str) -> str:
    """Return the part after the scheme, with all Sentinels in one list.

    kombu writes several Sentinels as alternate URLs, separated by `;`.
    """
    parts = re.split(r";(?=[A-Za-z][A-Za-z0-9+.-]*://)", rest)
    if len(parts) == 1:
        return rest
    if kind != "sentinel":
        raise SettingsError(
            "MANAGER_REDIS_URL lists several servers (';'), but a fleet has one Redis: name one of them, or "
            f"for high availability use {_SENTINEL_FORM}"
        )
    credentials, end, places = "", "", []
    for index, part in enumerate(parts):
        other, separator, one = part.partition("://")
        one = one if separator and index else part
        if index and other.lower() != scheme.lower():
            raise SettingsError(
                "MANAGER_REDIS_URL: Sentinels that are separated by ';' must have the same scheme"
            )
        found = re.match(r"(?P<netloc>[^/?#]*)(?P<end>.*)", one, re.DOTALL)
        assert found is not None  # the pattern matches any text
        login, at, place = found["netloc"].rpartition("@")
        credentials = credentials or login + at
        places.append(place)
        end = found["end"].rstrip("/") or end
    return f"{credentials}{','.join(places)}{end}"


def _split(rest: str) -> tuple[str, str, str]:
    try:
        parts = urlsplit(f"redis://{rest}")
    except ValueError:
        raise SettingsError(_NO_URL) from None
    # An unescaped character of a password moves the rest of it into these parts.
    if "@" in parts.path + parts.query + parts.fragment or parts.fragment or rest.endswith("#"):
        raise SettingsError(_NO_URL)
    return parts.netloc, parts.path, parts.query


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    if not query:
        return options
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True)
    except ValueError:
        raise SettingsError("MANAGER_REDIS_URL: the part after '?' is not a list of NAME=VALUE") from None
    for name, value in pairs:
        if not _NAME.fullmatch(name):
            raise SettingsError("MANAGER_REDIS_URL: the part after '?' is not a list of NAME=VALUE")
        if name not in _OPTIONS:
            raise SettingsError(
                f"MANAGER_REDIS_URL: the option {name} is not supported: remove it. Supported are db, "
                "username, password, ssl_cert_reqs, ssl_ca_certs, ssl_certfile, ssl_keyfile and "
                "ssl_check_hostname; the manager sets timeouts and the number of connections"
            )
        if name in options:
            raise SettingsError(f"MANAGER_REDIS_URL: the option {name} is listed twice")
        options[name] = value
    return options


def _login(username: str, password: str, options: Mapping[str, str]) -> tuple[str, str]:
    for name, given in (("username", username), ("password", password)):
        if name in options and given and options[name] != given:
            raise SettingsError(f"MANAGER_REDIS_URL has two values for the {name}: before '@' and after '?'")
    return username or options.get("username", ""), password or options.get("password", "")


def _tls(tls: bool, kind: Kind, options: Mapping[str, str]) -> bool:
    for name in _TLS_SWITCH:
        value = options.get(name)
        if value is None:
            continue
        if value.lower() not in _YES | _NO:
            raise SettingsError(f"MANAGER_REDIS_URL: the option {name} must be true or false")
        enabled = value.lower() in _YES
        if (tls and not enabled) or (enabled and kind == "unix"):
            raise SettingsError(f"MANAGER_REDIS_URL: the option {name} contradicts the scheme")
        tls = enabled
    return tls


def _tls_options(tls: bool, options: Mapping[str, str]) -> tuple[tuple[str, str | bool], ...]:
    given = [name for name in options if name.startswith("ssl_")]
    if not tls:
        if given:
            raise SettingsError(
                f"MANAGER_REDIS_URL: the option {given[0]} needs TLS: write rediss:// instead of redis://"
            )
        return ()
    level = _CERT_REQS.get(options.get("ssl_cert_reqs", "required").lower())
    if level is None:
        raise SettingsError("MANAGER_REDIS_URL: ssl_cert_reqs must be required, optional or none")
    found: list[tuple[str, str | bool]] = [("ssl_cert_reqs", level)]
    for name in _TLS_FILES:
        if name in options:
            if not options[name]:
                raise SettingsError(f"MANAGER_REDIS_URL: the option {name} is empty")
            found.append((name, options[name]))
    if ("ssl_certfile" in options) != ("ssl_keyfile" in options):
        raise SettingsError("MANAGER_REDIS_URL: a client certificate needs both ssl_certfile and ssl_keyfile")
    check = options.get("ssl_check_hostname")
    if check is not None:
        if check.lower() not in _YES | _NO:
            raise SettingsError("MANAGER_REDIS_URL: the option ssl_check_hostname must be true or false")
        found.append(("ssl_check_hostname", check.lower() in _YES))
    return tuple(found)


def _places(kind: Kind, text: str) -> tuple[tuple[str, int | None], ...]:
    parts = text.split(",")
    if len(parts) > 1 and kind != "sentinel":
        raise SettingsError(
            "MANAGER_REDIS_URL lists several hosts (','), but a fleet has one Redis: name one of them, or "
            f"for high availability use {_SENTINEL_FORM}"
        )
    places: list[tuple[str, int | None]] = []
    for part in parts:
        found = _PLACE.fullmatch(part)
        port = int(found["port"]) if found is not None and found["port"] else None
        if found is None or (port is not None and not 0 < port < 65536):
            raise SettingsError(_NO_URL)
        places.append(((found["six"] or unquote(found["host"])).lower(), port))
    return tuple(places)


def _master(path: str, options: Mapping[str, str]) -> tuple[str, str]:
    """Return the name of the Sentinels' group, and the rest of the path."""
    named = [options[name] for name in _MASTER if options.get(name)]
    parts = [unquote(part) for part in path.split("/") if part]
    if parts and not parts[0].isdecimal():
        # `redis+sentinel://HOST/NAME/0`, the form of other libraries.
        named.append(parts.pop(0))
    if len(set(named)) != 1:
        raise SettingsError(f"MANAGER_REDIS_URL: Sentinel needs exactly one group name: {_SENTINEL_FORM}")
    return named[0], "/".join(parts)


def _database(path: str, options: Mapping[str, str]) -> int:
    found = [text for text in (path.strip("/"), *(options.get(name, "") for name in _DATABASE)) if text]
    if any(not (text.isascii() and text.isdecimal()) for text in found):
        raise SettingsError("MANAGER_REDIS_URL: the database after the host must be a number, for example /0")
    numbers = {int(text) for text in found}
    if len(numbers) > 1:
        raise SettingsError("MANAGER_REDIS_URL has two database numbers: after the host and after '?'")
    return numbers.pop() if numbers else 0


def _place(host: str, port: int | None) -> str:
    host = f"[{host}]" if ":" in host else host
    return host if port is None else f"{host}:{port}"


def _query(query: Mapping[str, str]) -> str:
    return f"?{urlencode(query, safe='/', quote_via=quote)}" if query else ""
