"""Reads and writes rollouts in Redis.

    manager:rollout:<id>         hash: `` (the rollout, JSON), account id → member (JSON)
    manager:rollout:<id>:tick    the host that takes the present step, for ten seconds
    manager:rollouts             sorted set: rollout id → start (seconds, by Redis's clock)
    manager:rollouts:active      set: ids of rollouts that are neither done nor cancelled

Any host takes the next step of a rollout. Each write names the version that it was computed from, and does
nothing if another write came first.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Final, TypeVar

from manager.change.rollouts import (
    OPEN,
    UNDER_WAY,
    Member,
    MemberState,
    Rollout,
    RolloutOptions,
    RolloutState,
)
from manager.errors import NoRolloutError, RolloutConflictError
from manager.fleet.parsing import json_object, string
from manager.fleet.redis_client import open_client, translated

ROLLOUTS_KEY: Final = "manager:rollouts"
ACTIVE_KEY: Final = "manager:rollouts:active"
#: Rollouts that are kept.
_KEPT: Final = 100
#: Milliseconds for which one host takes a step.
_TICK_MS: Final = 10_000

#: KEYS: rollout, rollouts, active. ARGV: 1 id; 2 start; 3 rollout (JSON); 4 whether conflicts are allowed;
#: 5 states in which a member belongs to its rollout (JSON); then account, member (JSON) for each.
_CREATE: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return {'', ''} end
local taken = {}
for _, state in ipairs(cjson.decode(ARGV[5])) do taken[state] = true end
if ARGV[4] ~= '1' then
  for _, other in ipairs(redis.call('SMEMBERS', KEYS[3])) do
    for i = 6, #ARGV, 2 do
      local member = redis.call('HGET', 'manager:rollout:' .. other, ARGV[i])
      if member and taken[cjson.decode(member).state] then return {other, ARGV[i]} end
    end
  end
end
redis.call('HSET', KEYS[1], '', ARGV[3])
for i = 6, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
redis.call('ZADD', KEYS[2], ARGV[2], ARGV[1])
redis.call('SADD', KEYS[3], ARGV[1])
return {}
"""

#: KEYS: rollout, active. ARGV: 1 id; 2 version that was read; 3 rollout (JSON); 4 whether it is active; then
#: account, member (JSON) for each changed member. Returns whether it wrote.
_WRITE: Final = """
local head = redis.call('HGET', KEYS[1], '')
if not head or cjson.decode(head).version ~= tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], '', ARGV[3])
for i = 5, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
if ARGV[4] ~= '1' then redis.call('SREM', KEYS[2], ARGV[1]) end
return 1
"""

_T = TypeVar("_T", RolloutOptions, Member)


class RolloutStore:
    """Reads and writes rollouts.

    Every method raises FleetUnavailableError if Redis cannot be used.
    """

    def __init__(self, url: str, client: Any = None) -> None:
        self._url = url
        self._client: Any = client or open_client(url)
        self._create = self._client.register_script(_CREATE)
        self._write = self._client.register_script(_WRITE)

    def close(self) -> None:
        self._client.close()

    def now(self) -> float:
        """Return the time by Redis's clock, in seconds since 1970."""
        with translated(self._url):
            seconds, micros = self._client.time()
        return float(seconds + micros / 1e6)

    def create(self, rollout: Rollout, members: Mapping[str, Member], *, force: bool = False) -> bool:
        """Write a new rollout; return False if there is one of this id.

        Raises RolloutConflictError if one of its accounts belongs to another active rollout, unless `force`.
        """
        taken = json.dumps(sorted(OPEN | UNDER_WAY))
        with translated(self._url):
            conflict = self._create(
                keys=[_key(rollout.id), ROLLOUTS_KEY, ACTIVE_KEY],
                args=[
                    rollout.id,
                    rollout.started,
                    json.dumps(asdict(rollout)),
                    int(force),
                    taken,
                    *_pairs(members),
                ],
            )
            other, account_id = map(string, conflict or (b"", b""))
            if conflict and not other:
                return False
            if conflict:
                raise RolloutConflictError(
                    f"{account_id} belongs to rollout {other}, which is not done: `manager rollout show "
                    f"{other}` shows it, `manager rollout cancel {other}` ends it"
                )
            self._drop_old()
        return True

    def has(self, account_id: str) -> bool:
        """Return whether an active rollout may still restart the account, or does so now."""
        with translated(self._url):
            texts = [self._client.hget(_key(one), account_id) for one in self.active()]
        members = [_member(json_object(text) or {}) for text in texts if text is not None]
        return any(one is not None and one.state in OPEN | UNDER_WAY for one in members)

    def read(self, rollout_id: str) -> tuple[Rollout, dict[str, Member]]:
        """Return a rollout and its members. Raises NoRolloutError."""
        with translated(self._url):
            raw = self._client.hgetall(_key(rollout_id))
        found = {string(key): json_object(value) or {} for key, value in raw.items()}
        head = _rollout(found.pop("", {}))
        if head is None:
            raise NoRolloutError(f"no rollout {rollout_id}: `manager rollout list` lists them")
        members = {key: member for key, data in found.items() if (member := _member(data)) is not None}
        return head, members

    def write(self, before: Rollout, after: Rollout, members: Mapping[str, Member]) -> bool:
        """Write a rollout and changed members; return False if another write came since `before`."""
        if after == before and not members:
            return True
        head = json.dumps(asdict(replace(after, version=before.version + 1)))
        with translated(self._url):
            return bool(
                self._write(
                    keys=[_key(before.id), ACTIVE_KEY],
                    args=[before.id, before.version, head, int(after.active), *_pairs(members)],
                )
            )

    def active(self) -> list[str]:
        """Return the ids of the active rollouts."""
        with translated(self._url):
            return sorted(string(one) for one in self._client.smembers(ACTIVE_KEY))

    def newest(self, count: int) -> list[Rollout]:
        """Return the `count` newest rollouts, newest first."""
        with translated(self._url):
            ids = [string(one) for one in self._client.zrevrange(ROLLOUTS_KEY, 0, count - 1)]
            pipe = self._client.pipeline(transaction=False)
            for one in ids:
                pipe.hget(_key(one), "")
            heads = pipe.execute() if ids else []
        return [head for text in heads if (head := _rollout(json_object(text) or {})) is not None]

    def begin_step(self, rollout_id: str, host: str) -> bool:
        """Return whether this host takes the rollout's next step; no other host does for ten seconds."""
        with translated(self._url):
            return bool(self._client.set(_tick_key(rollout_id), host, nx=True, px=_TICK_MS))

    def end_step(self, rollout_id: str) -> None:
        """Let any host take the next step."""
        with translated(self._url):
            self._client.delete(_tick_key(rollout_id))

    def _drop_old(self) -> None:
        old = [string(one) for one in self._client.zrange(ROLLOUTS_KEY, 0, -_KEPT - 1)]
        active = {string(one) for one in self._client.smembers(ACTIVE_KEY)}
        for one in old:
            if one not in active:
                self._client.zrem(ROLLOUTS_KEY, one)
                self._client.delete(_key(one))


def _key(rollout_id: str) -> str:
    return f"manager:rollout:{rollout_id}"


def _tick_key(rollout_id: str) -> str:
    return f"{_key(rollout_id)}:tick"


def _pairs(members: Mapping[str, Member]) -> Iterable[str]:
    for account_id, member in members.items():
        yield account_id
        yield json.dumps(asdict(member))


def _known(kind: type[_T], data: Mapping[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {key: value for key, value in data.items() if key in names}


def _rollout(data: Mapping[str, Any]) -> Rollout | None:
    names = {one.name for one in fields(Rollout)}
    try:
        known = {key: value for key, value in data.items() if key in names}
        options = RolloutOptions(**_known(RolloutOptions, known.pop("options")))
        return Rollout(**{**known, "options": options, "state": RolloutState(known["state"])})
    except (KeyError, TypeError, ValueError):
        return None


def _member(data: Mapping[str, Any]) -> Member | None:
    try:
        return Member(**{**_known(Member, data), "state": MemberState(data["state"])})
    except (KeyError, TypeError, ValueError):
        return None
