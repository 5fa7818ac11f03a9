"""Which host agent has a host's name: claimed in Redis before the agent does anything, renewed each second.

    manager:host:<name>:claim   hash: token (of one agent process), data (JSON: machine, home, pid, …), at (milliseconds)

Two agents of one name each take the other's accounts and queue for their own. The agent's own word (`:agent`) comes only
once it is ready, which a stop that it missed can hold up for half a minute: too late to keep a second agent out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from manager.fleet.keys import claim_key
from manager.fleet.parsing import json_object
from manager.fleet.redis_client import open_client, translated

#: KEYS: claim. ARGV: token, data, milliseconds for which a claim counts, token of a claim that may be replaced ('': none).
_CLAIM: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local f = redis.pcall('HMGET', KEYS[1], 'token', 'data', 'at')
if f.err then
  redis.call('DEL', KEYS[1])
  f = {false, false, false}
end
local at = tonumber(f[3])
if f[1] and at and f[1] ~= ARGV[1] and f[1] ~= ARGV[4] and math.abs(now - at) < tonumber(ARGV[3]) then
  return {f[1], f[2] or '', string.format('%d', at)}
end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'data', ARGV[2], 'at', string.format('%d', now))
return {}
"""

#: KEYS: claim. ARGV: token.
_RELEASE: Final = """
local f = redis.pcall('HGET', KEYS[1], 'token')
if f == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


@dataclass(frozen=True, slots=True)
class Claimant:
    """The agent that has a name."""

    token: str
    data: Mapping[str, Any]
    #: When it renewed its claim last, in milliseconds by Redis's clock.
    at: int


class HostNames:
    """The names of a fleet's hosts. Every method raises FleetUnavailableError if Redis cannot be used."""

    def __init__(self, url: str, fresh_seconds: float) -> None:
        """A claim that was not renewed for `fresh_seconds` does not count."""
        self._url = url
        self._fresh_ms = int(fresh_seconds * 1000)
        self._client: Any = open_client(url)
        self._claim = self._client.register_script(_CLAIM)
        self._release = self._client.register_script(_RELEASE)

    def claim(self, host: str, token: str, data: Mapping[str, Any], *, replaces: str = "") -> Claimant | None:
        """Claim the name, or renew the claim; returns who else has it, None if it is `token`'s now.

        `replaces` is the token of a claimant that is known to have ended. One script decides, so that of two agents that
        claim in the same moment one has the name.
        """
        with translated(self._url):
            answer = self._claim(
                keys=[claim_key(host)], args=[token, json.dumps(data), self._fresh_ms, replaces]
            )
        if not answer:
            return None
        theirs, told, at = (part.decode(errors="replace") for part in answer)
        return Claimant(theirs, json_object(told) or {}, int(at))

    def release(self, host: str, token: str) -> None:
        """Give the name up, unless another agent has it by now. Idempotent."""
        with translated(self._url):
            self._release(keys=[claim_key(host)], args=[token])

    def close(self) -> None:
        self._client.close()
