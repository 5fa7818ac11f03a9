"""Records of the commands of the HTTP API, by idempotency key.

The key is also the id of the command's task.

    manager:api:idem:<key>   hash, for a day: `head` (JSON: fingerprint, what, account_id, host, by),
    `asked_at`,
                             `done` (JSON: the outcome) and `done_at` (milliseconds, by Redis's clock)

The first write of `head` and of `done` counts: a request that is sent twice is one command with one outcome.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from manager.fleet.parsing import json_object, moment, string
from manager.fleet.redis_client import open_client, translated

#: As long as `manager:seen` remembers a task's id.
_KEPT_SECONDS: Final = 86_400

#: KEYS: the record. ARGV: head, lifetime in seconds. Returns whether it is new, and the record.
_CLAIM: Final = """
local new = redis.call('HSETNX', KEYS[1], 'head', ARGV[1])
if new == 1 then
  local t = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'asked_at', string.format('%d', t[1] * 1000 + math.floor(t[2] / 1000)))
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return {new, redis.call('HGETALL', KEYS[1])}
"""

#: KEYS: the record. ARGV: outcome. Returns the record.
_FINISH: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 and redis.call('HSETNX', KEYS[1], 'done', ARGV[1]) == 1 then
  local t = redis.call('TIME')
  redis.call('HSET', KEYS[1], 'done_at', string.format('%d', t[1] * 1000 + math.floor(t[2] / 1000)))
end
return redis.call('HGETALL', KEYS[1])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandHead:
    """The request of a command: what it does, and its sender."""

    #: Hash of the request. The same key with another hash is an error of the client.
    fingerprint: str
    what: str
    by: str
    account_id: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord:
    """A command and its outcome."""

    id: str
    head: CommandHead
    asked_at: datetime
    #: `{"result": ...}` or `{"problem": {...}}`; None until it is known.
    outcome: Mapping[str, Any] | None = None
    done_at: datetime | None = None

    @property
    def done(self) -> bool:
        return self.outcome is not None


class CommandRecords:
    """Reads and writes the records of commands.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)
        self._claim = self._client.register_script(_CLAIM)
        self._finish = self._client.register_script(_FINISH)

    def close(self) -> None:
        self._client.close()

    def claim(self, key: str, head: CommandHead) -> tuple[bool, CommandRecord]:
        """Record a command before it is sent.

        Returns whether it is new, and the record that counts.
        """
        text = json.dumps(asdict(head))
        with translated(self._url):
            new, fields = self._claim(keys=[_key(key)], args=[text, _KEPT_SECONDS])
            found = _read(key, fields)
            if found is None:  # malformed, for example edited by an operator
                self._client.delete(_key(key))
                new, fields = self._claim(keys=[_key(key)], args=[text, _KEPT_SECONDS])
                found = _read(key, fields)
        if found is None:
            raise ValueError(f"command {key} was written in a form that cannot be read")
        return bool(new), found

    def finish(self, key: str, outcome: Mapping[str, Any]) -> CommandRecord | None:
        """Record the outcome unless the record has one.

        Returns the record that counts, or None if it has expired.
        """
        with translated(self._url):
            return _read(key, self._finish(keys=[_key(key)], args=[json.dumps(outcome)]))

    def read(self, key: str) -> CommandRecord | None:
        """Return a command, or None if it is unknown or older than a day."""
        with translated(self._url):
            return _read(key, self._client.hgetall(_key(key)))


def _read(key: str, raw: Any) -> CommandRecord | None:
    pairs = raw.items() if isinstance(raw, Mapping) else zip(raw[::2], raw[1::2], strict=True)
    fields = {string(name): value for name, value in pairs}
    head = json_object(fields.get("head")) or {}
    asked_at = _time(fields.get("asked_at"))
    if asked_at is None or not all(isinstance(head.get(name), str) for name in ("fingerprint", "what", "by")):
        return None
    return CommandRecord(
        id=key,
        head=CommandHead(
            fingerprint=head["fingerprint"],
            what=head["what"],
            by=head["by"],
            account_id=str(head.get("account_id", "")),
            host=str(head.get("host", "")),
        ),
        asked_at=asked_at,
        outcome=json_object(fields.get("done")),
        done_at=_time(fields.get("done_at")),
    )


def _time(raw: object) -> datetime | None:
    return moment(int(raw) / 1000) if isinstance(raw, bytes) and raw.isdigit() else None


def _key(key: str) -> str:
    return f"manager:api:idem:{key}"
