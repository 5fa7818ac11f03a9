"""The audit trail: who sent which command when, and its outcome.

    manager:audit               stream: entries of managers, and of every host that has no Redis user
    manager:audit:host:<name>   list: entries of that host, `<seconds of Redis's clock> <JSON>`, oldest first
    manager:audit:hosts         set: the hosts that have such a list

An entry's stage is `asked` or `done`. The script that writes desired state also writes `asked`. The host that
carried the command out or refused it writes `done`, or the manager that refused it before sending. The
command's id, which is the id of its Celery task, links the two.

Redis's ACL can deny a command, but not one of its options: a user with XADD may also trim the stream. A host
with a user (`manager secure init`) therefore writes to a list, on which it may only RPUSH. A stolen
credential then changes and removes no entry, neither the host's own nor another's. Readers merge the lists
and the stream by time.
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

#: Entries that the stream keeps, and each list: half a year at 250 commands a day and two entries a command.
_KEPT: Final = 100_000
_PAGE: Final = 1000
#: Characters to which each text is cut.
_MOST_CHARS: Final = 500
#: Prefix of a host's Redis user; see `manager secure`.
_HOST_USER: Final = "host-"

#: ARGV: host whose list is written ('': the stream), entry (JSON), entries that the stream keeps, type of the
#: event that repeats the entry ('': none), fields and values. A host with the ACL of version 0.2 may not
#: write the list: its entry goes to the stream, as with
#: 0.2.
_NOTE: Final = """
local t = redis.call('TIME')
local e = cjson.decode(ARGV[2])
local noted
if ARGV[1] ~= '' then
  local entry = string.format('%d.%06d %s', t[1], t[2], ARGV[2])
  noted = type(redis.pcall('RPUSH', 'manager:audit:host:' .. ARGV[1], entry)) == 'number'
  if noted then redis.pcall('SADD', 'manager:audit:hosts', ARGV[1]) end
end
if not noted then
  redis.call('XADD', 'manager:audit', 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, 5))
end
if ARGV[4] ~= '' then
  local data = {what = e.what, outcome = e.outcome}
  local asked = e.id ~= '' and redis.pcall('GET', 'manager:seen:' .. e.id)
  if type(asked) == 'string' and tonumber(asked) then
    local now = t[1] * 1000 + math.floor(t[2] / 1000)
    data.seconds = math.max(0, now - tonumber(asked)) / 1000
  end
  redis.pcall('XADD', 'manager:events', '*', 'host', e.host, 'account_id', e.account, 'worker_id', '',
    'status', '', 'error', e.text, 'epoch', '0', 'kind', 'other', 'v', '1', 'type', ARGV[4], 'by', e.by,
    'command', e.id, 'data', cjson.encode(data))
end
return 1
"""

#: Command → event type, where it is not `command.done`.
_EVENT_TYPES: Final = {
    "drain": "host.draining",
    "resume-host": "host.resumed",
    "config push": "config.pushed",
    "config rollback": "config.pushed",
}
#: The outcome of a command whose end is not known yet: it has no event.
_PENDING: Final = "pending"


def host_key(host: str) -> str:
    return f"manager:audit:host:{host}"


def writing_host(url: str) -> str:
    """Return the host whose Redis user the URL names.

    Empty for a manager's URL, and where hosts have no users.
    """
    try:
        user = unquote(urlsplit(url).username or "")
    except ValueError:
        return ""
    host = user.removeprefix(_HOST_USER)
    return host if user.startswith(_HOST_USER) and HOST_NAME.fullmatch(host) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """One entry of the trail."""

    id: str
    time: datetime
    #: `asked` or `done`.
    stage: str
    #: The command: start, stop, restart, move, drain, config push, ...
    what: str
    account_id: str
    #: User and machine that sent it; for a plain Celery task, the sending process.
    by: str
    #: Of `asked`, the host that it was sent to; of `done`, the host that carried it out.
    host: str
    #: The command's id.
    command: str
    #: Of `done`: `ok`, or the error's code.
    outcome: str
    text: str
    #: The host whose Redis user wrote the entry, which no other user could. Empty for managers, and where
    #: hosts have no users.
    recorded_by: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "time": self.time.isoformat()}


class AuditTrail:
    """Writes and reads the trail.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

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
        fields = {key: value[:_MOST_CHARS] for key, value in fields.items()}
        with translated(self._url):
            flat = [part for pair in fields.items() for part in pair]
            event = "" if outcome == _PENDING else _EVENT_TYPES.get(what, f"command.{stage}")
            self._note(args=[self._host, json.dumps(fields), _KEPT, event, *flat])
        if not self._host:
            self._trim()

    @contextmanager
    def refusals(self, what: str, *, by: str, host: str = "", account_id: str = "") -> Iterator[None]:
        """Record a ManagerError that the block raises, and re-raise it."""
        try:
            yield
        except FleetUnavailableError:
            raise  # the trail cannot be reached either
        except ManagerError as error:
            with suppress(FleetUnavailableError):
                self.note(what, by=by, host=host, account_id=account_id, outcome=error.code, text=str(error))
            raise

    def last(self, count: int) -> list[AuditEntry]:
        """Return the newest `count` entries, oldest first."""
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
        """Yield every entry, oldest first."""
        with translated(self._url):
            hosts = self._hosts()
        yield from heapq.merge(self._stream(), *(self._list(host) for host in hosts), key=_order)

    def follower(self) -> "TrailFollower":
        """Return a reader of the entries that are added from now on."""
        return TrailFollower(self._url, self._client, self._hosts)

    def _stream(self) -> Iterator[AuditEntry]:
        after = "-"
        while True:
            with translated(self._url):
                found = self._client.xrange(AUDIT_KEY, min=after, count=_PAGE)
            for entry_id, fields in found:
                yield _read(entry_id, fields)
            if len(found) < _PAGE:
                return
            after = f"({found[-1][0].decode()}"

    def _list(self, host: str) -> Iterator[AuditEntry]:
        at = 0
        while True:
            with translated(self._url):
                found = self._client.lrange(host_key(host), at, at + _PAGE - 1)
            yield from _read_list(host, at, found)
            if len(found) < _PAGE:
                return
            at += len(found)

    def _hosts(self) -> list[str]:
        names = map(string, self._client.smembers(HOSTS_KEY))
        return sorted(name for name in names if HOST_NAME.fullmatch(name))

    def _trim(self) -> None:
        """Trim the hosts' lists.

        A host may not, so a manager does when it writes an entry.
        """
        try:
            with translated(self._url):
                pipe = self._client.pipeline(transaction=False)
                for host in self._hosts():
                    pipe.ltrim(host_key(host), -_KEPT, -1)
                pipe.execute()
        except FleetUnavailableError:
            return  # the entry is written; the next write trims


class TrailFollower:
    """Reads entries that are added after its creation."""

    def __init__(self, url: str, client: Any, hosts: Callable[[], list[str]]) -> None:
        self._url = url
        self._client = client
        self._hosts = hosts
        with translated(url):
            newest = client.xrevrange(AUDIT_KEY, count=1)
            self._after = newest[0][0].decode() if newest else "0"
            self._lengths = {host: client.llen(host_key(host)) for host in hosts()}

    def next(self, *, wait_seconds: float = 1.0) -> list[AuditEntry]:
        """Return new entries by time.

        Blocks up to `wait_seconds` for the first one. Raises FleetUnavailableError.
        """
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
            # If a manager trimmed the list meanwhile, this read misses entries; the next one must not.
            self._lengths[host] = (
                max(length, self._lengths.get(host, 0) + len(entries)) if entries else length
            )
        return found


def _order(entry: AuditEntry) -> datetime:
    # Both sources have milliseconds. A stable sort keeps the stream's entry first: `asked` before `done`.
    return entry.time


def _read(entry_id: bytes, fields: Mapping[bytes, bytes]) -> AuditEntry:
    text = {string(key): string(value) for key, value in fields.items()}
    return _entry(entry_id.decode(), int(entry_id.split(b"-")[0]) / 1000, text)


def _read_list(host: str, first: int, entries: Sequence[bytes]) -> Iterator[AuditEntry]:
    """Yield a host's entries.

    A malformed value is shown too, because only a forger writes one.
    """
    for index, raw in enumerate(entries, start=first):
        stamp, _, payload = raw.partition(b" ")
        data = json_object(payload) or {"text": "malformed entry"}
        text = {key: value if isinstance(value, str) else "" for key, value in data.items()}
        if text.get("stage") != "asked":
            # A host may report only what it did itself.
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
