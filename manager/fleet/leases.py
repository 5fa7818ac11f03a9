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

from manager.fleet.lease_scripts import ACQUIRE, RELEASE, RENEW, REVOKE
from manager.fleet.redis_client import open_client, translated

MARKER_KEY: Final = "manager:fleet"
EPOCH_KEY: Final = "manager:epoch"
LEASE_PREFIX: Final = "manager:lease:"


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
        self._acquire = self._client.register_script(ACQUIRE)
        self._release = self._client.register_script(RELEASE)
        self._revoke = self._client.register_script(REVOKE)

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
        self._renew: Any = client.register_script(RENEW)
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
