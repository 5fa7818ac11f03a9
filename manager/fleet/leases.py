"""Leases: fleet-wide claims on broker identities.

A lease ensures that no two workers ever hold a session for one identity.

    manager:lease:<claim>   hash: epoch, host, home, worker_id, account_id, since, ttl, renewed (milliseconds)
    manager:epoch           the last epoch that was given
    manager:fleet           hash: run_id of the Redis server, and until when (ms) it is in quarantine

A claim is a broker identity (gateway, server, login) or a terminal of one host. Its epoch is the fencing
token: each new holder gets a greater one, and a renewal with a smaller one is refused.

All times are Redis's own clock. A lease without a time to live (`ttl` 0, the default) ends only when its host
reports that the worker has ended, or when it is revoked. A Redis that has restarted may have lost its last
writes, or everything. It is then in quarantine: new leases are refused, and only running workers may register
again, with their next heartbeat. docs/decisions/005-one-live-session.md has the arithmetic.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from manager.fleet.redis_client import open_client, translated

MARKER_KEY: Final = "manager:fleet"
EPOCH_KEY: Final = "manager:epoch"
LEASE_PREFIX: Final = "manager:lease:"

#: Shared by the scripts: the clock, and `lease`, which marks a malformed record as broken.
_COMMON: Final = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local function lease(key)
  local f = redis.pcall('HMGET', key, 'epoch', 'ttl', 'renewed', 'host', 'worker_id', 'account_id',
    'since', 'revoked', 'home')
  if f.err then return {key = key, broken = true} end
  if not (f[1] or f[2] or f[3]) and redis.call('EXISTS', key) == 0 then return nil end
  local found = {key = key, epoch = tonumber(f[1]), ttl = tonumber(f[2]), renewed = tonumber(f[3]),
    host = f[4] or '', home = f[9] or '', worker_id = f[5] or '', account_id = f[6] or '',
    since = tonumber(f[7]) or 0, revoked = f[8] == '1'}
  -- 1e15 ms is beyond every clock, and near the point where doubles cannot represent n + 1.
  found.broken = not (found.epoch and found.ttl and found.renewed)
    or found.epoch < 0 or found.epoch > 1e15
  return found
end
local function holder(found)
  return {0, found.key, found.host or '', found.worker_id or '', found.account_id or '',
    string.format('%d', found.epoch or 0), string.format('%d', found.since or 0),
    string.format('%d', math.max(0, now - (found.renewed or 0))), found.broken and 1 or 0, found.home or ''}
end
"""

#: Takes all leases or none; returns {1, epoch}, {0, holder} or {-1, milliseconds of quarantine left}.
#: KEYS: marker, epoch, leases. ARGV: host, worker_id, account_id, ttl, quarantine, epoch that is already held
#: (0: none), home.
_ACQUIRE: Final = (
    _COMMON
    + """
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local marker = redis.call('HMGET', KEYS[1], 'run_id', 'until')
local trusted = tonumber(marker[2])
if marker[1] ~= run_id or not trusted then
  trusted = now + tonumber(ARGV[5])
  redis.call('HSET', KEYS[1], 'run_id', run_id, 'until', string.format('%d', trusted))
end
local held = tonumber(ARGV[6])
local mine = held > 0
for i = 3, #KEYS do
  local found = lease(KEYS[i])
  if found and found.broken then return holder(found) end
  if found and not found.revoked and found.epoch ~= held then
    if found.ttl == 0 or found.renewed + found.ttl > now then return holder(found) end
  end
  if not (found and found.epoch == held) then mine = false end
end
if trusted > now and not mine then return {-1, trusted - now} end
local last = tonumber(redis.call('GET', KEYS[2])) or 0
if not (last >= 0 and last < 1e15) then last = 0 end
for i = 3, #KEYS do
  local found = lease(KEYS[i])
  if found then last = math.max(last, found.epoch) end
end
local epoch = math.max(last + 1, held + 1, now)
redis.call('SET', KEYS[2], string.format('%d', epoch))
for i = 3, #KEYS do
  redis.call('DEL', KEYS[i])
  redis.call('HSET', KEYS[i], 'epoch', string.format('%d', epoch), 'host', ARGV[1], 'home', ARGV[7],
    'worker_id', ARGV[2], 'account_id', ARGV[3], 'ttl', ARGV[4],
    'since', string.format('%d', now), 'renewed', string.format('%d', now))
end
return {1, string.format('%d', epoch)}
"""
)

#: Stores a heartbeat and renews the leases; returns {1}, or {0, holder} if a lease belongs to another.
#: KEYS: epoch, heartbeats' hash, leases. ARGV: epoch, host, worker_id, account_id, ttl, heartbeat, home.
_RENEW: Final = (
    _COMMON
    + """
local mine = tonumber(ARGV[1])
local leases = {}
for i = 3, #KEYS do
  local found = lease(KEYS[i])
  if found and not found.broken then
    local theirs = found.host ~= ARGV[2]
      or (found.home ~= '' and ARGV[7] ~= '' and found.home ~= ARGV[7])
    if found.epoch > mine or (found.epoch == mine and (found.revoked or theirs)) then
      return holder(found)
    end
  end
  leases[i] = found
end
for i = 3, #KEYS do
  local found = leases[i]
  if found and found.epoch == mine and not found.broken then
    redis.call('HSET', KEYS[i], 'renewed', string.format('%d', now), 'worker_id', ARGV[3])
  else
    -- The record is lost or malformed: this worker runs, so the lease is its own.
    redis.call('DEL', KEYS[i])
    redis.call('HSET', KEYS[i], 'epoch', ARGV[1], 'host', ARGV[2], 'home', ARGV[7],
      'worker_id', ARGV[3], 'account_id', ARGV[4], 'ttl', ARGV[5],
      'since', string.format('%d', now), 'renewed', string.format('%d', now))
    if (tonumber(redis.call('GET', KEYS[1])) or 0) < mine then redis.call('SET', KEYS[1], ARGV[1]) end
  end
end
redis.call('HSET', KEYS[2], ARGV[4], string.format('%d.%06d ', t[1], t[2]) .. ARGV[6])
return {1}
"""
)

#: Deletes the leases that are held with exactly this epoch. KEYS: leases. ARGV: epoch.
_RELEASE: Final = (
    _COMMON
    + """
for i = 1, #KEYS do
  local found = lease(KEYS[i])
  if found and not found.broken and found.epoch == tonumber(ARGV[1]) then
    redis.call('DEL', KEYS[i])
  end
end
return 1
"""
)

#: Revokes a lease: others may acquire it, and its holder's next renewal is refused. KEYS: lease.
_REVOKE: Final = (
    _COMMON
    + """
local found = lease(KEYS[1])
if not found then return 0 end
if found.broken then redis.call('DEL', KEYS[1]) else redis.call('HSET', KEYS[1], 'revoked', '1') end
return 1
"""
)


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a claim."""

    claim: str
    host: str
    worker_id: str
    account_id: str
    epoch: int
    #: Milliseconds since the epoch, by Redis's clock.
    since_ms: int
    #: Milliseconds since the last renewal.
    renewed_age_ms: int
    #: Time to live in milliseconds; 0: unlimited.
    ttl_ms: int = 0
    #: Time of the last renewal, in milliseconds since the epoch by Redis's clock.
    renewed_ms: int = 0
    #: Identifies the holder's state directory: two machines may have the same host name by mistake.
    home: str = ""
    #: Whether the record is malformed or of an incompatible version.
    broken: bool = False

    @property
    def expired(self) -> bool:
        return self.ttl_ms > 0 and self.renewed_age_ms > self.ttl_ms


class LeaseHeld(Exception):  # noqa: N818 - an answer of the protocol that every caller handles
    """Raised when another worker holds the claim."""

    def __init__(self, holder: Holder) -> None:
        super().__init__(f"{holder.claim} is held by {holder.host}")
        self.holder = holder


class Quarantine(Exception):  # noqa: N818
    """Raised while Redis, after a restart, may have lost leases."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"Redis has restarted and may have lost leases: no new session for {seconds:.1f} s")
        self.seconds = seconds


class LeaseStore:
    """The leases of a fleet.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)
        self._acquire = self._client.register_script(_ACQUIRE)
        self._release = self._client.register_script(_RELEASE)
        self._revoke = self._client.register_script(_REVOKE)

    def acquire(
        self,
        claims: Sequence[str],
        *,
        host: str,
        worker_id: str,
        account_id: str,
        ttl_seconds: float,
        quarantine_seconds: float,
        held_epoch: int = 0,
        home: str = "",
    ) -> int:
        """Acquire all claims or none; return the epoch.

        `held_epoch` is the epoch of an ended worker of this host whose claims pass to the new worker.

        Raises:
            LeaseHeld: another worker holds one of the claims.
            Quarantine: Redis has restarted and may have lost leases.
        """
        with translated(self._url):
            answer = self._acquire(
                keys=[MARKER_KEY, EPOCH_KEY, *map(lease_key, claims)],
                args=[
                    host,
                    worker_id,
                    account_id,
                    int(ttl_seconds * 1000),
                    int(quarantine_seconds * 1000),
                    held_epoch,
                    home,
                ],
            )
        if answer[0] == -1:
            raise Quarantine(answer[1] / 1000)
        if answer[0] == 0:
            raise LeaseHeld(_holder(answer))
        return int(answer[1])

    def release(self, claims: Sequence[str], epoch: int) -> None:
        """Release the claims that are held with `epoch`, and no others.

        Idempotent.
        """
        with translated(self._url):
            self._release(keys=[lease_key(claim) for claim in claims], args=[epoch])

    def revoke(self, claim: str) -> bool:
        """Free a claim without proof that its holder has ended.

        Returns False if it has no holder.
        """
        with translated(self._url):
            return bool(self._revoke(keys=[lease_key(claim)]))

    def holder(self, claim: str) -> Holder | None:
        """Return the claim's holder, or None."""
        found = self._read([lease_key(claim)])
        return found[0] if found else None

    def holders(self) -> list[Holder]:
        """Return all holders, by claim. A revoked lease has none."""
        with translated(self._url):
            keys = sorted(self._client.scan_iter(match=f"{LEASE_PREFIX}*", count=1000))
        return self._read([key.decode(errors="replace") for key in keys])

    def _read(self, keys: Sequence[str]) -> list[Holder]:
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.time()
            for key in keys:
                pipe.hgetall(key)
            seconds, *raw = pipe.execute(raise_on_error=False)
        now = int((seconds[0] + seconds[1] / 1e6) * 1000)
        return [
            found
            for key, fields in zip(keys, raw, strict=True)
            if (found := _read(key, fields, now)) is not None
        ]

    def quarantine_seconds(self) -> float:
        """Return the seconds for which new leases are still refused.

        0 if the quarantine is over, or if no lease was requested since Redis restarted.
        """
        with translated(self._url):
            pipe = self._client.pipeline(transaction=False)
            pipe.info("server")
            pipe.hmget(MARKER_KEY, "run_id", "until")
            pipe.time()
            server, (run_id, until), (seconds, micros) = pipe.execute()
        if run_id is None or until is None or run_id.decode(errors="replace") != server.get("run_id"):
            return 0.0
        try:
            return float(max(0.0, int(until) / 1000 - (seconds + micros / 1e6)))
        except ValueError:
            return 0.0

    def trust(self) -> None:
        """End the quarantine: this Redis has lost nothing.

        For a Redis that is as new as its fleet, or that was stopped cleanly and has all its data.
        """
        with translated(self._url):
            run_id = self._client.info("server")["run_id"]
            self._client.hset(MARKER_KEY, mapping={"run_id": run_id, "until": 0})


class LeaseBeats:
    """Sends a worker's heartbeats.

    Each one also renews its lease, in one round trip.
    """

    def __init__(
        self,
        client: "redis.Redis",
        *,
        host: str,
        beats_key: str,
        claims: Sequence[str],
        epoch: int,
        ttl_seconds: float,
        home: str = "",
    ) -> None:
        self._home = home
        self._renew: Any = client.register_script(_RENEW)
        self._keys = [EPOCH_KEY, beats_key, *map(lease_key, claims)]
        self._host = host
        self._epoch = epoch
        self._ttl_ms = int(ttl_seconds * 1000)

    def send(self, account_id: str, beat: Mapping[str, Any]) -> None:
        """Renew the lease and store the heartbeat.

        Raises:
            LeaseHeld: another worker holds the lease.
            redis.RedisError, OSError: Redis cannot be used.
        """
        text = json.dumps(beat, separators=(",", ":"))
        args = [
            self._epoch,
            self._host,
            str(beat.get("worker_id", "")),
            account_id,
            self._ttl_ms,
            text,
            self._home,
        ]
        answer = self._renew(keys=self._keys, args=args)
        if answer[0] == 0:
            raise LeaseHeld(_holder(answer))


def lease_key(claim: str) -> str:
    return LEASE_PREFIX + claim


def _holder(answer: Sequence[Any]) -> Holder:
    key, host, worker_id, account_id = (part.decode(errors="replace") for part in answer[1:5])
    return Holder(
        claim=key.removeprefix(LEASE_PREFIX),
        host=host,
        worker_id=worker_id,
        account_id=account_id,
        epoch=int(answer[5]),
        since_ms=int(answer[6]),
        renewed_age_ms=int(answer[7]),
        broken=bool(answer[8]),
        home=answer[9].decode(errors="replace"),
    )


def _read(key: str, fields: Any, now: int) -> Holder | None:
    if fields == {}:
        return None  # released since the keys were listed
    claim = key.removeprefix(LEASE_PREFIX)
    try:
        text = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
        if text.get("revoked") == "1":
            return None
        renewed = int(text["renewed"])
        return Holder(
            claim,
            text["host"],
            text["worker_id"],
            text["account_id"],
            int(text["epoch"]),
            int(text["since"]),
            now - renewed,
            int(text["ttl"]),
            renewed,
            text.get("home", ""),
        )
    except (AttributeError, KeyError, ValueError):
        # AttributeError: `fields` is the error that redis-py returns for a key of another type.
        return Holder(claim, "", "", "", 0, 0, 0, broken=True)


__all__ = ["Holder", "LeaseBeats", "LeaseHeld", "LeaseStore", "Quarantine", "lease_key"]
