"""Claims on host names: one host agent at a time may hold a name.

    manager:host:<name>:claim   hash: token (of an agent process), data (JSON: machine, home, pid, …), at (ms)

Two agents with one name would take each other's accounts and consume each other's queues. An agent claims its
name before it does anything else, and renews the claim each second. Its status report (`:agent`) would come
too late to exclude a second agent: the first one is written when the agent is ready, up to half a minute
later.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from manager.fleet.keys import claim_key
from manager.fleet.parsing import json_object
from manager.fleet.redis_client import open_client, translated

#: Claims a name, or renews the claim; returns {}, or {token, data, at} of another agent that holds it. KEYS:
#: claim. ARGV: token, data, milliseconds for which a claim is valid, token of a claim to replace ('': none).
_CLAIM: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local f = redis.pcall('HMGET', KEYS[1], 'token', 'data', 'at')
if f.err then
  redis.call('DEL', KEYS[1])
  f = {false, false, false}
end
local at = tonumber(f[3])
local other = f[1] and at and f[1] ~= ARGV[1] and f[1] ~= ARGV[4]
if other and math.abs(now - at) < tonumber(ARGV[3]) then
  return {f[1], f[2] or '', string.format('%d', at)}
end
redis.call('HSET', KEYS[1], 'token', ARGV[1], 'data', ARGV[2], 'at', string.format('%d', now))
return {}
"""

#: Deletes the claim if this token holds it. KEYS: claim. ARGV: token.
_RELEASE: Final = """
local f = redis.pcall('HGET', KEYS[1], 'token')
if f == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
"""


@dataclass(frozen=True, slots=True)
class Claimant:
    """The agent that holds a name."""

    token: str
    data: Mapping[str, Any]
    #: Time of the last renewal, in milliseconds since the epoch by Redis's clock.
    at: int


class HostNames:
    """The names of a fleet's hosts.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, fresh_seconds: float) -> None:
        """A claim that was not renewed for `fresh_seconds` is void."""
        self._url = url
        self._fresh_ms = int(fresh_seconds * 1000)
        self._client: Any = open_client(url)
        self._claim = self._client.register_script(_CLAIM)
        self._release = self._client.register_script(_RELEASE)

    def claim(self, host: str, token: str, data: Mapping[str, Any], *, replaces: str = "") -> Claimant | None:
        """Claim the name, or renew the claim.

        Returns None if `token` holds the name now, else the agent that holds it. `replaces` is the token of a
        claimant that is known to have ended. If two agents claim at the same moment, exactly one gets the
        name.
        """
        with translated(self._url):
            answer = self._claim(
                keys=[claim_key(host)], args=[token, json.dumps(data), self._fresh_ms, replaces]
            )
        if not answer:
            return None
        holder, raw, at = (part.decode(errors="replace") for part in answer)
        return Claimant(holder, json_object(raw) or {}, int(at))

    def release(self, host: str, token: str) -> None:
        """Release the name if `token` holds it. Idempotent."""
        with translated(self._url):
            self._release(keys=[claim_key(host)], args=[token])

    def close(self) -> None:
        self._client.close()
