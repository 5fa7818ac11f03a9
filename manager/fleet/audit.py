"""The audit trail: who asked for what, from where, when, and with what outcome. Read by people, exported as lines.

    manager:audit               stream: what managers asked, and everything in a fleet without a Redis user for each host
    manager:audit:host:<name>   list: what that host wrote, `<seconds of Redis's clock> <JSON>`, the oldest first
    manager:audit:hosts         set: the hosts that have such a list

An entry is `asked` (written in the same script as the desired state) or `done` (by the host that carried it
out or refused it, or by the manager that refused it unsent). The command's id, which is its Celery
task's id, ties the two.

A Redis user may be kept from a command, not from an option of it: who may add to a stream may also trim it. A host with
a user (`manager secure init`) therefore writes to a list, where it may do RPUSH and nothing else: its credential, stolen,
changes and removes no entry, neither its own nor another's. Readers merge the lists and the stream by time.
"""

import heapq
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from manager.errors import FleetUnavailableError, ManagerError
from manager.fleet.parsing import json_object, string
from manager.fleet.redis_client import open_client, translated
from manager.settings import HOST_NAME

AUDIT_KEY: Final = "manager:audit"
HOSTS_KEY: Final = "manager:audit:hosts"

#: Entries kept, in the stream and of each host: about half a year of a desk that gives 250 commands a day.
_KEPT: Final = 100_000
_AT_ONCE: Final = 1000
#: Characters of a text that are kept; whoever reaches Redis can send any length.
_TEXT: Final = 500
#: What begins the name of a host's Redis user; see `manager secure`.
_HOST_USER: Final = "host-"

#: ARGV: host whose list is written ('': the stream), entry (JSON), entries kept in the stream, fields and values. A host
#: whose rights are those of version 0.2 writes to the stream, as that version does.
_NOTE: Final = """
if ARGV[1] ~= '' then
  local t = redis.call('TIME')
  local entry = string.format('%d.%06d %s', t[1], t[2], ARGV[2])
  if type(redis.pcall('RPUSH', 'manager:audit:host:' .. ARGV[1], entry)) == 'number' then
    redis.pcall('SADD', 'manager:audit:hosts', ARGV[1])
    return 1
  end
end
redis.call('XADD', 'manager:audit', 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, 4))
return 1
"""


def host_key(host: str) -> str:
    return f"manager:audit:host:{host}"


def writing_host(url: str) -> str:
    """Return the host whose Redis user a URL names; empty for a manager's, or where hosts have no users."""
    try:
        user = unquote(urlsplit(url).username or "")
    except ValueError:
        return ""
    host = user.removeprefix(_HOST_USER)
    return host if user.startswith(_HOST_USER) and HOST_NAME.fullmatch(host) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One line of the trail."""

    id: str
    time: datetime
    #: `asked` or `done`.
    stage: str
    #: What was asked for: start, stop, restart, move, drain, config push, ...
    what: str
    account_id: str
    #: Who: user and machine, or for a plain Celery task the process that sent it.
    by: str
    #: Where it was sent, or was done.
    host: str
    #: The command's id.
    command: str
    #: Of `done`: `ok`, or the code of the error.
    outcome: str
    text: str
    #: The host whose Redis user wrote it, which no other could; empty where hosts have no users, and for managers.
    recorded_by: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "time": self.time.isoformat()}


class AuditTrail:
    """Writes and reads the trail. Every method raises FleetUnavailableError if Redis cannot be used."""

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)
        self._host = writing_host(url)
        self._note = self._client.register_script(_NOTE)

    def close(self) -> None:
        self._client.close()

    def note(
        self,
        what: str,
        *,
        by: str,
        host: str = "",
        account_id: str = "",
        command: str = "",
        stage: str = "done",
        outcome: str = "ok",
        text: str = "",
    ) -> None:
        """Add one entry."""
        fields = {
            "stage": stage,
            "id": command,
            "what": what,
            "account": account_id,
            "by": by,
            "host": host,
            "outcome": outcome,
            "text": text,
        }
        fields = {key: value[:_TEXT] for key, value in fields.items()}
        with translated(self._url):
            flat = [part for pair in fields.items() for part in pair]
            self._note(args=[self._host, json.dumps(fields), _KEPT, *flat])
        if not self._host:
            self._trim()

    @contextmanager
    def refusals(self, what: str, *, by: str, host: str = "", account_id: str = "") -> Iterator[None]:
        """Write why the command that is checked inside is refused, if it is, and raise the error on."""
        try:
            yield
        except FleetUnavailableError:
            raise  # there is no trail to write to
        except ManagerError as error:
            with suppress(FleetUnavailableError):
                self.note(what, by=by, host=host, account_id=account_id, outcome=error.code, text=str(error))
            raise

    def last(self, count: int) -> list[AuditEntry]:
        """Return the newest `count` entries, the oldest of them first."""
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.xrevrange(AUDIT_KEY, count=count)
            hosts = self._hosts()
            for host in hosts:
                pipe.llen(host_key(host))
                pipe.lrange(host_key(host), -count, -1)
            stream, *lists = pipe.execute()
        found = [_read(entry_id, fields) for entry_id, fields in reversed(stream)]
        for host, length, entries in zip(hosts, lists[::2], lists[1::2], strict=True):
            found += _read_list(host, length - len(entries), entries)
        return sorted(found, key=_order)[-count:]

    def everything(self) -> Iterator[AuditEntry]:
        """Yield every entry, the oldest first."""
        with translated(self._url):
            hosts = self._hosts()
        yield from heapq.merge(self._stream(), *(self._list(host) for host in hosts), key=_order)

    def follower(self) -> "TrailFollower":
        """Return a reader of what comes from now on."""
        return TrailFollower(self._url, self._client, self._hosts)

    def _stream(self) -> Iterator[AuditEntry]:
        after = "-"
        while True:
            with translated(self._url):
                found = self._client.xrange(AUDIT_KEY, min=after, count=_AT_ONCE)
            for entry_id, fields in found:
                yield _read(entry_id, fields)
            if len(found) < _AT_ONCE:
                return
            after = f"({found[-1][0].decode()}"

    def _list(self, host: str) -> Iterator[AuditEntry]:
        at = 0
        while True:
            with translated(self._url):
                found = self._client.lrange(host_key(host), at, at + _AT_ONCE - 1)
            yield from _read_list(host, at, found)
            if len(found) < _AT_ONCE:
                return
            at += len(found)

    def _hosts(self) -> list[str]:
        names = map(string, self._client.smembers(HOSTS_KEY))
        return sorted(name for name in names if HOST_NAME.fullmatch(name))

    def _trim(self) -> None:
        """Keep the lists from growing for ever: a host may not, so a manager does when it writes."""
        try:
            with translated(self._url):
                pipe = self._client.pipeline(transaction=False)
                for host in self._hosts():
                    pipe.ltrim(host_key(host), -_KEPT, -1)
                pipe.execute()
        except FleetUnavailableError:
            return  # the entry is written; the next one trims


class TrailFollower:
    """Reads what is added to the trail from the moment on at which it is made."""

    def __init__(self, url: str, client: Any, hosts: Callable[[], list[str]]) -> None:
        self._url = url
        self._client = client
        self._hosts = hosts
        with translated(url):
            newest = client.xrevrange(AUDIT_KEY, count=1)
            self._after = newest[0][0].decode() if newest else "0"
            self._lengths = {host: client.llen(host_key(host)) for host in hosts()}

    def next(self, *, wait_seconds: float = 1.0) -> list[AuditEntry]:
        """Return new entries by time, waiting for the first at most `wait_seconds`. Raises FleetUnavailableError."""
        with translated(self._url):
            found = self._of_hosts()
            answer = self._client.xread(
                {AUDIT_KEY: self._after}, block=max(1, int(wait_seconds * 1000)) if not found else None
            )
            for entry_id, fields in answer[0][1] if answer else []:
                self._after = entry_id.decode()
                found.append(_read(entry_id, fields))
        return sorted(found, key=_order)

    def _of_hosts(self) -> list[AuditEntry]:
        found: list[AuditEntry] = []
        hosts = self._hosts()
        pipe = self._client.pipeline(transaction=False)
        for host in hosts:
            pipe.llen(host_key(host))
            pipe.lrange(host_key(host), self._lengths.get(host, 0), -1)
        answers = pipe.execute()
        for host, length, entries in zip(hosts, answers[::2], answers[1::2], strict=True):
            found += _read_list(host, self._lengths.get(host, 0), entries)
            # A manager may have trimmed the list: what was new then is missed, and the next is not.
            self._lengths[host] = (
                max(length, self._lengths.get(host, 0) + len(entries)) if entries else length
            )
        return found


def _order(entry: AuditEntry) -> datetime:
    # To the millisecond, as the stream's ids are. At the same one the stream's come first: asked before done.
    return entry.time


def _read(entry_id: bytes, fields: Mapping[bytes, bytes]) -> AuditEntry:
    text = {string(key): string(value) for key, value in fields.items()}
    return _entry(entry_id.decode(), int(entry_id.split(b"-")[0]) / 1000, text)


def _read_list(host: str, first: int, entries: Sequence[bytes]) -> Iterator[AuditEntry]:
    """Yield a host's entries; what is no entry is shown as one, since only a forger writes such a thing."""
    for index, raw in enumerate(entries, start=first):
        stamp, _, payload = raw.partition(b" ")
        data = json_object(payload) or {"text": "an entry that cannot be read"}
        text = {key: value if isinstance(value, str) else "" for key, value in data.items()}
        if text.get("stage") != "asked":
            # Where it was done is where it was written.
            text["host"] = host
        try:
            seconds = math.floor(float(stamp) * 1000) / 1000
        except (ValueError, OverflowError):
            seconds = 0.0
        yield _entry(f"{host}:{index}", seconds, text, recorded_by=host)


def _entry(entry_id: str, seconds: float, text: Mapping[str, str], recorded_by: str = "") -> AuditEntry:
    try:
        when = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        when = datetime.fromtimestamp(0, UTC)
    return AuditEntry(
        id=entry_id,
        time=when,
        stage=text.get("stage", ""),
        what=text.get("what", ""),
        account_id=text.get("account", ""),
        by=text.get("by", ""),
        host=text.get("host", ""),
        command=text.get("id", ""),
        outcome=text.get("outcome", ""),
        text=text.get("text", ""),
        recorded_by=recorded_by,
    )
