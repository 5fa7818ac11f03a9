"""Single operations on leases, on a real Redis."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.servers import RedisServer

from manager.errors import FleetUnavailableError
from manager.fleet.leases import LeaseBeats, LeaseHeld, LeaseStore, Quarantine, lease_key

CLAIM = "paper:Paper-1:5001"


class Fleet:
    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.client: Any = server.client()
        self.store = LeaseStore(server.url)
        self.store.trust()

    def take(
        self,
        host: str = "h1",
        worker_id: str = "w-1",
        *claims: str,
        ttl: float = 0.0,
        held: int = 0,
        quarantine: float = 30.0,
    ) -> int:
        return self.store.acquire(
            claims or (CLAIM,),
            host=host,
            worker_id=worker_id,
            account_id="account-001",
            ttl_seconds=ttl,
            quarantine_seconds=quarantine,
            held_epoch=held,
        )

    def beats(self, epoch: int, host: str = "h1", ttl: float = 0.0) -> LeaseBeats:
        return LeaseBeats(
            self.client, host=host, beats_key="beats", claims=[CLAIM], epoch=epoch, ttl_seconds=ttl
        )

    def renew(self, epoch: int, host: str = "h1", worker_id: str = "w-1") -> None:
        self.beats(epoch, host).send("account-001", {"worker_id": worker_id})


@pytest.fixture
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    found = Fleet(redis_server)
    yield found
    found.client.close()


def test_a_claim_has_one_holder_and_the_error_names_it(fleet: Fleet) -> None:
    epoch = fleet.take("h1", "w-1")
    with pytest.raises(LeaseHeld) as refused:
        fleet.take("h2", "w-2")
    holder = refused.value.holder
    assert (holder.host, holder.worker_id, holder.account_id, holder.epoch) == (
        "h1",
        "w-1",
        "account-001",
        epoch,
    )
    assert holder.since_ms > 1_600_000_000_000
    assert fleet.store.holder(CLAIM) is not None


def test_epochs_only_grow(fleet: Fleet) -> None:
    epochs = []
    for _ in range(3):
        epochs.append(fleet.take())
        fleet.store.release([CLAIM], epochs[-1])
    assert epochs == sorted(set(epochs))
    assert fleet.store.holder(CLAIM) is None


def test_a_late_release_does_not_affect_the_next_holder(fleet: Fleet) -> None:
    old = fleet.take("h1", "w-1")
    fleet.store.release([CLAIM], old)
    fleet.take("h2", "w-2")
    fleet.store.release([CLAIM], old)
    found = fleet.store.holder(CLAIM)
    assert found is not None
    assert found.host == "h2"


def test_all_claims_or_none(fleet: Fleet) -> None:
    fleet.take("h1", "w-1", "terminal:h1:/x")
    with pytest.raises(LeaseHeld, match="terminal"):
        fleet.take("h1", "w-2", CLAIM, "terminal:h1:/x")
    assert fleet.store.holder(CLAIM) is None


def test_a_lease_without_a_time_to_live_never_expires(fleet: Fleet) -> None:
    fleet.take()
    fleet.client.hset(lease_key(CLAIM), "renewed", 1)
    with pytest.raises(LeaseHeld):
        fleet.take("h2", "w-2")


def test_an_expired_lease_is_acquired_and_its_old_holder_is_refused(fleet: Fleet) -> None:
    old = fleet.take("h1", "w-1", ttl=30)
    with pytest.raises(LeaseHeld):
        fleet.take("h2", "w-2", ttl=30)
    fleet.client.hincrby(lease_key(CLAIM), "renewed", -31_000)
    new = fleet.take("h2", "w-2", ttl=30)
    assert new > old
    with pytest.raises(LeaseHeld) as lost:
        fleet.renew(old)
    assert lost.value.holder.host == "h2"
    assert not fleet.client.exists("beats")


def test_a_heartbeat_renews_the_lease(fleet: Fleet) -> None:
    epoch = fleet.take()
    fleet.client.hset(lease_key(CLAIM), "renewed", 1)
    fleet.renew(epoch)
    found = fleet.store.holder(CLAIM)
    assert found is not None
    assert found.renewed_age_ms < 5000
    assert b'{"worker_id":"w-1"}' in fleet.client.hget("beats", "account-001")


def test_the_claim_passes_from_an_ended_worker_to_the_next_of_its_host(fleet: Fleet) -> None:
    old = fleet.take("h1", "w-1")
    new = fleet.take("h1", "w-2", held=old)
    assert new > old
    with pytest.raises(LeaseHeld):
        fleet.renew(old)


def test_a_revoked_lease_is_free_and_its_holder_is_refused(fleet: Fleet) -> None:
    old = fleet.take()
    assert fleet.store.revoke(CLAIM) is True
    assert fleet.store.holder(CLAIM) is None
    with pytest.raises(LeaseHeld):
        fleet.renew(old)
    assert fleet.take("h2", "w-2") > old
    assert fleet.store.revoke("nobody:s:1") is False


def test_an_empty_redis_accepts_only_running_workers_at_first(fleet: Fleet) -> None:
    old = fleet.take()
    fleet.server.stop()
    for path in Path(fleet.server.directory).glob("**/*"):
        if path.is_file():
            path.unlink()
    fleet.server.start()
    with pytest.raises(Quarantine) as raised:
        fleet.take("h2", "w-2", quarantine=0.3)
    assert 0 < raised.value.seconds <= 0.3
    fleet.renew(old)
    with pytest.raises(LeaseHeld):
        fleet.take("h2", "w-2", quarantine=0.3)
    fleet.store.release([CLAIM], old)
    # The counter was lost too, but the next epoch must still be greater.
    assert _eventually_taken(fleet) > old


def test_a_restarted_redis_is_in_quarantine(fleet: Fleet) -> None:
    fleet.server.restart()
    with pytest.raises(Quarantine):
        fleet.take(quarantine=0.2)
    assert _eventually_taken(fleet) > 0


def test_a_cleanly_stopped_redis_is_trusted(fleet: Fleet) -> None:
    fleet.server.restart()
    fleet.store.trust()
    assert fleet.take() > 0


def test_the_claims_of_an_ended_worker_pass_to_the_next_even_in_quarantine(fleet: Fleet) -> None:
    old = fleet.take()
    fleet.server.restart()
    assert fleet.take("h1", "w-2", held=old) > old


@pytest.mark.parametrize("nonsense", ["string", "fields", "epoch"])
def test_a_malformed_lease_is_refused_to_others_and_repaired_by_its_worker(
    fleet: Fleet, nonsense: str
) -> None:
    epoch = fleet.take()
    fleet.client.delete(lease_key(CLAIM))
    if nonsense == "string":
        fleet.client.set(lease_key(CLAIM), "hello")
    elif nonsense == "fields":
        fleet.client.hset(lease_key(CLAIM), mapping={"owner": "me"})
    else:
        fleet.client.hset(lease_key(CLAIM), mapping={"epoch": "much", "ttl": "0", "renewed": "1"})
    with pytest.raises(LeaseHeld) as refused:
        fleet.take("h2", "w-2")
    assert refused.value.holder.broken
    found = fleet.store.holder(CLAIM)
    assert found is not None
    assert found.broken
    fleet.renew(epoch)
    mended = fleet.store.holder(CLAIM)
    assert mended is not None
    assert mended.epoch == epoch


def test_without_redis_every_call_raises_one_kind_of_error(fleet: Fleet) -> None:
    fleet.server.stop()
    with pytest.raises(FleetUnavailableError):
        fleet.take()


def _eventually_taken(fleet: Fleet) -> int:
    from support.waiting import eventually

    def attempt() -> int:
        try:
            return fleet.take("h2", "w-2", quarantine=0.3)
        except Quarantine:
            return 0

    return eventually(attempt, what="the quarantine ends")
