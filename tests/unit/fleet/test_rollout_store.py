"""Rollouts in Redis: conflicts, and writes that race."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from support.servers import RedisServer

from manager.change.rollout_store import ACTIVE_KEY, RolloutStore
from manager.change.rollouts import Member, MemberState, Rollout, RolloutOptions, RolloutState
from manager.errors import NoRolloutError, RolloutConflictError

ONE = Rollout(
    id="r1", aim="both", options=RolloutOptions(max_unavailable=3, flat_deadline=5.0), by="ops", started=1.5
)
MEMBERS = {"a": Member(canary=True, base=7), "b": Member(order=1, state=MemberState.SKIPPED, why="it rests")}


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[RolloutStore]:
    found = RolloutStore(redis_server.url)
    yield found
    found.close()


def test_a_rollout_comes_back_as_it_was_written(store: RolloutStore) -> None:
    store.create(ONE, MEMBERS)
    assert store.read("r1") == (ONE, MEMBERS)
    assert store.active() == ["r1"]
    assert store.newest(5) == [ONE]
    with pytest.raises(NoRolloutError, match="rollout list"):
        store.read("r2")


def test_a_write_that_was_computed_from_an_older_version_does_nothing(store: RolloutStore) -> None:
    store.create(ONE, MEMBERS)
    paused = replace(ONE, state=RolloutState.PAUSED)
    assert store.write(ONE, paused, {})
    assert not store.write(ONE, ONE, {"a": Member(state=MemberState.RESTARTING)})
    after, members = store.read("r1")
    assert (after.state, after.version, members) == (RolloutState.PAUSED, 1, MEMBERS)
    assert store.write(after, after, {}), "nothing changes, nothing is written"
    assert store.write(after, replace(after, state=RolloutState.DONE), {"a": Member(state=MemberState.DONE)})
    assert store.active() == []
    assert store.newest(1)[0].state is RolloutState.DONE


def test_an_account_has_one_active_rollout(store: RolloutStore) -> None:
    store.create(ONE, MEMBERS)
    other = replace(ONE, id="r2", started=2.5)
    with pytest.raises(RolloutConflictError, match="a belongs to rollout r1"):
        store.create(other, {"c": Member(), "a": Member()})
    with pytest.raises(NoRolloutError):
        store.read("r2")
    store.create(other, {"b": Member(), "c": Member()})  # r1 has skipped b
    store.create(replace(ONE, id="r3"), {"a": Member()}, force=True)
    assert store.active() == ["r1", "r2", "r3"]


def test_one_host_takes_a_step(store: RolloutStore, redis_server: RedisServer) -> None:
    assert store.begin_step("r1", "h1")
    assert not store.begin_step("r1", "h2")
    store.end_step("r1")
    assert store.begin_step("r1", "h2")
    with redis.Redis.from_url(redis_server.url) as client:
        assert 0 < client.pttl("manager:rollout:r1:tick") <= 10_000


def test_malformed_records_are_no_rollouts(store: RolloutStore, redis_server: RedisServer) -> None:
    store.create(ONE, MEMBERS)
    with redis.Redis.from_url(redis_server.url) as client:
        client.hset("manager:rollout:r1", "a", "[")
        client.hset("manager:rollout:r2", "", '{"state": "nonsense", "options": {}}')
        client.sadd(ACTIVE_KEY, "r2")
    assert store.read("r1")[1] == {"b": MEMBERS["b"]}
    with pytest.raises(NoRolloutError):
        store.read("r2")
