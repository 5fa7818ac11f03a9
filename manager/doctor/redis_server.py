"""Checks of Redis: whether it answers, its writes, role and settings."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from manager.doctor.check import Check, Context
from manager.doctor.clocks import SKEW_SECONDS, skew_text
from manager.fleet import safe_url
from manager.fleet.address import parse_redis_url
from manager.fleet.server import ServerLimits

#: Seconds for one command above which Redis counts as slow.
_SLOW: Final = 0.05
_MIN_VERSION: Final = (6, 2)
#: Share of the server's connections above which few more workers can connect.
_CROWDED: Final = 0.8


def redis_server(context: Context) -> Iterator[Check]:
    """Run every check of the server.

    Raises FleetUnavailableError if it does not answer.
    """
    store = context.store
    where = safe_url(store.url)
    began = time.monotonic()
    server = store.ping()
    took = (time.monotonic() - began) / 2
    yield _answer(where, server, took)
    yield _writes(context, where)
    yield from _limits(where, store.server.limits())
    yield from _settings(context, where)
    yield _clock(server)


def _answer(where: str, server: Mapping[str, Any], took: float) -> Check:
    name, number = server["name"], str(server.get("redis_version", "0"))
    if tuple(int(part) for part in number.split(".")[:2] if part.isdigit()) < _MIN_VERSION:
        found, advice = f"{name} at {where} is too old", "use Redis 6.2 or later, or Valkey"
        return Check(code="redis", outcome="failure", where=where, found=found, advice=advice)
    if took > _SLOW:
        found = f"{name} at {where} takes {took * 1000:.0f} ms to answer"
        advice = "check the load of its machine and the network to it"
        return Check(code="redis", outcome="warning", where=where, found=found, advice=advice)
    found = f"{name} at {where}, answers in {took * 1000:.1f} ms"
    return Check(code="redis", outcome="ok", where=where, found=found)


def _writes(context: Context, where: str) -> Check:
    refusal = context.store.server.write_refusal()
    if refusal is None:
        return Check(
            code="redis_writes", outcome="ok", where=where, found="Redis accepts writes from this user"
        )
    if refusal.code == "NOPERM":
        return Check(
            code="redis_writes",
            outcome="warning",
            where=where,
            found=f"Redis refuses this user's writes (NOPERM): {refusal.said}",
            advice="use the URL of the user `manager` to send commands; with a reader's URL this is normal. "
            "After an upgrade run `manager secure init` again, then `ACL LOAD`",
        )
    context.writes_refused = refusal.code
    return Check(
        code="redis_writes",
        outcome="failure",
        where=where,
        found=f"Redis refuses writes ({refusal.code}): it {refusal.what}; its message: {refusal.said}",
        advice=f"{refusal.advice}. Until then commands fail and workers continue; `manager stop ACCOUNT "
        "--local` works on the worker's machine",
    )


def _limits(where: str, limits: ServerLimits) -> Iterator[Check]:
    if limits.role == "slave":
        yield Check(
            code="redis_role",
            outcome="failure",
            where=where,
            found="this Redis is a read-only replica",
            advice="point MANAGER_REDIS_URL at the primary, or at the Sentinels that know it (sentinel://)",
        )
    else:
        yield Check(code="redis_role", outcome="ok", where=where, found="this Redis is a primary")
    if limits.most_connections is None:
        return
    found = f"{limits.connections} of {limits.most_connections} connections in use (maxclients)"
    if limits.connections >= limits.most_connections * _CROWDED:
        yield Check(
            code="redis_connections",
            outcome="warning",
            where=where,
            found=found,
            advice="raise maxclients and the server's limit of open files: each worker needs a connection "
            "to renew its lease",
        )
    else:
        yield Check(code="redis_connections", outcome="ok", where=where, found=found)


def _settings(context: Context, where: str) -> Iterator[Check]:
    found = context.store.server.settings()
    if found is None:
        text = "not checked: this user may not read Redis's settings"
        yield Check(code="redis_settings", outcome="ok", where=where, found=text)
        return
    if found.get("maxmemory-policy") != "noeviction":
        yield Check(
            code="redis_settings",
            outcome="failure",
            where=where,
            found=f"maxmemory-policy is {found.get('maxmemory-policy')}",
            advice="set it to noeviction: a Redis that evicts keys loses queued commands",
        )
    if found.get("appendonly") != "yes":
        yield Check(
            code="redis_settings",
            outcome="warning",
            where=where,
            found="appendonly is no",
            advice="set `appendonly yes` and `appendfsync everysec`: otherwise a restart of Redis loses "
            "commands",
        )
    kind = parse_redis_url(context.store.url).kind
    if kind == "sentinel" and found.get("min-replicas-to-write", "0") == "0":
        yield Check(
            code="redis_settings",
            outcome="failure",
            where=where,
            found="min-replicas-to-write is 0 although Sentinel may elect another primary",
            advice="set it to 1 on every server, and min-replicas-max-lag to at most Sentinel's "
            "down-after-milliseconds. Otherwise a disconnected primary renews leases that the new primary "
            "does not know",
        )
    if found.get("maxmemory-policy") == "noeviction" and found.get("appendonly") == "yes":
        text = "noeviction, append-only file"
        yield Check(code="redis_settings", outcome="ok", where=where, found=text)


def _clock(server: dict[str, Any]) -> Check:
    skew = time.time() - float(server["time"])
    if abs(skew) > SKEW_SECONDS:
        return Check(
            code="clock",
            outcome="warning",
            where="this machine",
            found=f"this machine's clock is {skew_text(skew)} Redis's clock",
            advice="run NTP on both machines: task expiry and the times in logs depend on it",
        )
    found = f"this machine's clock differs from Redis's clock by {abs(skew) * 1000:.0f} ms"
    return Check(code="clock", outcome="ok", where="this machine", found=found)
