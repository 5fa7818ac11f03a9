"""Leases of hosts on a real Redis, with clocks that the tests control."""

import threading
from typing import Any

import pytest
from support.configs import config
from support.servers import RedisServer

from manager.errors import FleetUnavailableError, SessionHeldError, StartCancelledError
from manager.fleet.leases import LeaseHeld, LeaseStore, lease_key
from manager.host.workers.fleet_leases import FleetLeases
from manager.host.workers.leases import LeaseGrant, LeaseRequest, LocalLeases, claims_of
from manager.host.workers.limits import Clocks

#: In lower case, so that version 0.2 and this version claim the same text.
CLAIM = "paper:s:1"


class Host:
    def __init__(
        self,
        server: RedisServer,
        name: str,
        known: set[str] | None = None,
        clocks: Clocks | None = None,
    ) -> None:
        self.store = LeaseStore(server.url)
        self.store.trust()
        self.leases = FleetLeases(self.store, name, 2.0, clocks=clocks)
        self.known = known or set()
        self.cancelled = threading.Event()

    def take(self, worker_id: str, before: LeaseGrant | None = None, **changes: Any) -> LeaseGrant:
        return self.leases.acquire(
            LeaseRequest(
                config=config(**{"server": "s", **changes}),
                worker_id=worker_id,
                previous=before,
                cancelled=self.cancelled,
                may_live=self.known.__contains__,
            )
        )


def test_a_rejection_names_the_holder_and_its_start(redis_server: RedisServer) -> None:
    Host(redis_server, "h1").take("w-1")
    with pytest.raises(SessionHeldError, match=r"worker w-1 on host h1 since \d{4}-\d\d-\d\d .* UTC"):
        Host(redis_server, "h2").take("w-2")


def test_a_host_acquires_its_own_abandoned_lease(redis_server: RedisServer) -> None:
    host = Host(redis_server, "h1")
    host.take("w-1")
    with redis_server.client() as client:
        client.hset(lease_key(CLAIM), "renewed", 1)
    assert host.take("w-3").epoch > 0
    with redis_server.client() as client:
        client.hset(lease_key(CLAIM), "renewed", 1)
    host.known = {"w-3"}
    with pytest.raises(SessionHeldError):
        host.take("w-4")


def test_a_start_waits_until_a_lease_counts_as_abandoned(redis_server: RedisServer) -> None:
    """The agent was killed between the lease and the process.

    The next one must wait, not reject.
    """
    host = Host(redis_server, "h1")
    host.leases = FleetLeases(host.store, "h1", 2.0, 0.2, abandoned_seconds=0.0)
    first = host.take("w-1")
    assert host.take("w-2").epoch > first.epoch
    host.known = {"w-2"}
    with pytest.raises(SessionHeldError):
        host.take("w-3")


def test_a_clock_that_is_set_forward_frees_no_lease(redis_server: RedisServer) -> None:
    now = [100.0]
    clocks = Clocks(lease=lambda: now[0])
    first = Host(redis_server, "h1", clocks=clocks).take("w-1", failover="auto")
    other = Host(redis_server, "h2", clocks=clocks)
    account = config(failover="auto", server="s")
    with redis_server.client() as client:
        client.hincrby(lease_key(CLAIM), "renewed", -3_600_000)  # Redis's clock jumps an hour
        assert not other.leases.is_free(account)
        now[0] += 1.9
        assert not other.leases.is_free(account)
        client.hincrby(lease_key(CLAIM), "renewed", 1)  # the worker renews it
        now[0] += 1.9
        assert not other.leases.is_free(account)
        now[0] += 2.0
        assert other.leases.is_free(account)
        other.cancelled.set()
        client.hincrby(lease_key(CLAIM), "renewed", 1)
        with pytest.raises(StartCancelledError):
            other.take("w-2", failover="auto")
    assert first.seconds == 2.0


def test_the_terminal_is_claimed_on_its_host_whatever_its_spelling(
    redis_server: RedisServer, tmp_path: Any
) -> None:
    (tmp_path / "Terminal").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "Terminal")
    host = Host(redis_server, "h1", {"w-1"})
    host.take("w-1", login=1, path=str(tmp_path / "Terminal"))
    for spelling in (tmp_path / "link", tmp_path / "x" / ".." / "Terminal"):
        with pytest.raises(SessionHeldError, match="terminal:h1:"):
            host.take("w-2", login=2, path=str(spelling))
    assert Host(redis_server, "h2").take("w-3", login=2, path=str(tmp_path / "link")).epoch
    upper = claims_of(config(path="/T/ONE"), "h")[-1]
    assert upper == claims_of(config(path="/t/one"), "h")[-1]


def test_without_redis_only_a_permanent_lease_passes_to_the_next_worker(redis_server: RedisServer) -> None:
    host = Host(redis_server, "h1")
    held = host.take("w-1")
    with_time = host.take("w-9", login=9, failover="auto")
    redis_server.stop()
    assert host.take("w-2", held) == held
    with pytest.raises(FleetUnavailableError):
        host.take("w-2", with_time, login=9, failover="auto")
    with pytest.raises(FleetUnavailableError):
        host.take("w-3", login=3)
    host.leases.release(held)  # raises nothing, and is repeated later
    redis_server.start()
    host.leases.retry_releases()
    assert host.store.holder(CLAIM) is None


def test_a_stop_ends_the_wait_for_a_quarantine(redis_server: RedisServer) -> None:
    host = Host(redis_server, "h1")
    redis_server.restart()
    host.cancelled.set()
    with pytest.raises(StartCancelledError):
        host.take("w-1")


def test_an_unreadable_lease_is_reported(redis_server: RedisServer) -> None:
    host = Host(redis_server, "h1")
    with redis_server.client() as client:
        client.set(lease_key(CLAIM), "nonsense")
    with pytest.raises(SessionHeldError, match="cannot be read"):
        host.take("w-1")


def test_workers_of_version_0_2_and_of_this_version_exclude_each_other(
    redis_server: RedisServer,
) -> None:
    """In a rolling upgrade.

    Version 0.2 claims the text in the file, this version its normalised form.
    """
    host = Host(redis_server, "h1")
    account: dict[str, Any] = {"server": "Paper-1", "login": "05001"}
    theirs = ["paper:Paper-1:05001"]

    def old(worker_id: str, held_epoch: int = 0) -> int:
        return host.store.acquire(
            theirs,
            host="h2",
            worker_id=worker_id,
            account_id="a",
            ttl_seconds=0,
            quarantine_seconds=0,
            held_epoch=held_epoch,
        )

    epoch = old("w-old")
    assert host.leases.is_held_permanently(config(**account), "h2")
    with pytest.raises(SessionHeldError, match="worker w-old on host h2"):
        host.take("w-new", **account)
    host.store.release(theirs, epoch)

    new = host.take("w-new", **account)
    with pytest.raises(LeaseHeld):
        old("w-old")
    host.leases.release(new)
    assert host.store.holders() == []


def test_the_lease_of_a_worker_of_version_0_2_passes_to_its_successor(redis_server: RedisServer) -> None:
    host = Host(redis_server, "h1")
    theirs = ("paper:Paper-1:5001",)
    epoch = host.store.acquire(
        theirs, host="h1", worker_id="w-old", account_id="a", ttl_seconds=0, quarantine_seconds=0
    )
    before = LeaseGrant(claims=theirs, epoch=epoch, seconds=0.0, asked_at=0.0)
    held = host.take("w-new", before, server="Paper-1", login=5001)
    host.leases.release(before)
    assert {holder.claim for holder in host.store.holders()} == set(held.claims)
    assert {holder.epoch for holder in host.store.holders()} == {held.epoch}


def test_two_spellings_of_one_login_are_one_session(redis_server: RedisServer) -> None:
    Host(redis_server, "h1").take("w-1", server="Paper-1", login=5001)
    for login, server in (("05001", "Paper-1"), ("5001.0", " PAPER-1"), ("+5001", "paper-1\u200b")):
        with pytest.raises(SessionHeldError, match="worker w-1"):
            Host(redis_server, "h2").take("w-2", server=server, login=login)


def test_a_local_pool_has_one_holder_of_each_claim() -> None:
    leases = LocalLeases("h")

    def take(worker_id: str, before: LeaseGrant | None = None) -> LeaseGrant:
        return leases.acquire(
            LeaseRequest(
                config=config(),
                worker_id=worker_id,
                previous=before,
                cancelled=threading.Event(),
                may_live=lambda _: False,
            )
        )

    held = take("w-1")
    with pytest.raises(SessionHeldError):
        take("w-2")
    again = take("w-3", held)
    leases.release(again)
    leases.retry_releases()
    take("w-4")


def test_a_release_that_redis_lost_is_repeated_without_affecting_newer_leases(
    redis_server: RedisServer,
) -> None:
    host = Host(redis_server, "h1")
    mine = host.take("w-1")
    key = lease_key(CLAIM)
    with redis_server.client() as client:
        lost: Any = client.dump(key)
        host.leases.release(mine)
        client.restore(key, 0, lost)  # like a replica that became primary without the release
        host.leases.repeat_releases()
        host.leases.retry_releases()
        assert host.store.holder(CLAIM) is None
        newer = Host(redis_server, "h2").take("w-2")
        host.leases.repeat_releases()
        host.leases.retry_releases()
    holder = host.store.holder(CLAIM)
    assert holder is not None
    assert (holder.host, holder.epoch) == ("h2", newer.epoch)
