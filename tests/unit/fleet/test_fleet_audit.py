"""The audit trail: hosts with a Redis user can only append, and readers see one merged trail."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.servers import RedisServer
from support.waiting import eventually

from manager.fleet import audit
from manager.fleet.audit import AUDIT_KEY, HOSTS_KEY, AuditTrail, host_key, writing_host
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[Any]:
    with redis_server.client() as found:
        yield found


def trail_of(server: RedisServer, host: str = "") -> AuditTrail:
    """Return the trail of a manager, or of a host's user (which has all rights here)."""
    found = AuditTrail(server.url)
    found._host = host
    return found


def next_moment(client: Any) -> None:
    """Wait for the next millisecond of Redis's clock: within one, the order of two writers is undefined."""
    before = client.time()
    eventually(lambda: client.time()[0] != before[0] or client.time()[1] // 1000 != before[1] // 1000)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("rediss://host-london-1:secret@redis:6379/0?x=1", "london-1"),
        ("redis://manager:secret@redis/0", ""),
        ("redis://:secret@redis/0", ""),
        ("redis://host-:secret@redis/0", ""),
        ("unix:///run/redis.sock", ""),
        ("redis://host-a%2Fb:x@redis/0", ""),
        ("redis://[", ""),
    ],
)
def test_a_hosts_redis_user_is_recognized_by_its_name(url: str, host: str) -> None:
    assert writing_host(url) == host


def test_lists_and_stream_are_one_trail_by_time(redis_server: RedisServer, client: Any) -> None:
    desk, one, two = trail_of(redis_server), trail_of(redis_server, "h1"), trail_of(redis_server, "h2")
    for number in range(4):
        for trail, by in ((desk, "desk"), (one, "h1"), (two, "h2")):
            trail.note(f"start {number}", by=by, host=by, account_id="a", text="é")
            next_moment(client)
    expected = [(f"start {n}", by) for n in range(4) for by in ("desk", "h1", "h2")]
    assert [(entry.what, entry.by) for entry in desk.last(100)] == expected
    assert [(entry.what, entry.by) for entry in desk.everything()] == expected
    assert [(entry.what, entry.by) for entry in desk.last(5)] == expected[-5:]
    assert [entry.recorded_by for entry in desk.last(3)] == ["", "h1", "h2"]
    assert client.xlen(AUDIT_KEY) == 4
    assert client.llen(host_key("h1")) == client.llen(host_key("h2")) == 4
    assert len({entry.id for entry in desk.everything()}) == 12


def test_a_follower_gets_the_entries_of_all_writers(redis_server: RedisServer, client: Any) -> None:
    desk, one, late = trail_of(redis_server), trail_of(redis_server, "h1"), trail_of(redis_server, "late")
    one.note("before", by="h1")
    follower = desk.follower()
    assert follower.next(wait_seconds=0.01) == []
    one.note("first", by="h1")
    next_moment(client)
    desk.note("second", by="desk")
    next_moment(client)
    late.note("third", by="late")
    assert [entry.what for entry in follower.next()] == ["first", "second", "third"]
    one.note("fourth", by="h1")
    assert [entry.what for entry in follower.next()] == ["fourth"]
    assert follower.next(wait_seconds=0.01) == []


def test_forged_entries_break_no_reader(redis_server: RedisServer, client: Any) -> None:
    desk = trail_of(redis_server)
    desk.note("start", by="desk")
    client.sadd(HOSTS_KEY, "h1", b"\xff", "../x", "gone")
    client.rpush(
        host_key("h1"), b"\xff", "", "1e400 {}", "nan {}", "-1e18 [1]", '5.0 {"by": 5, "host": "h2"}'
    )
    found = desk.last(50)
    assert found == list(desk.everything())
    assert [entry.what for entry in found if not entry.recorded_by] == ["start"]
    assert {(entry.recorded_by, entry.host) for entry in found if entry.recorded_by} == {("h1", "h1")}
    assert len(found) == 7


def test_a_manager_trims_the_lists_when_it_writes(
    redis_server: RedisServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_KEPT", 3)
    desk, one = trail_of(redis_server), trail_of(redis_server, "h1")
    follower = desk.follower()
    for number in range(5):
        one.note(f"n{number}", by="h1")
    assert client.llen(host_key("h1")) == 5
    assert [entry.what for entry in follower.next()] == [f"n{number}" for number in range(5)]
    desk.note("push", by="desk")
    assert [entry.what for entry in desk.last(50)] == ["n2", "n3", "n4", "push"]
    follower.next()
    one.note("n5", by="h1")
    assert [entry.what for entry in follower.next()] == ["n5"]


def test_a_change_of_desired_state_writes_its_audit_entry(redis_server: RedisServer) -> None:
    desired = DesiredStore(redis_server.url)
    desired._audit_host = "h1"
    desired.set_desired(
        DesiredStateRequest(
            account_id="a", state="running", token="t", by="ops", why="start", host="h2", writer="h1"
        )
    )
    (entry,) = AuditTrail(redis_server.url).last(5)
    assert (entry.stage, entry.what, entry.account_id, entry.by, entry.command) == (
        *("asked", "start", "a", "ops", "t"),
    )
    assert (entry.host, entry.recorded_by) == ("h2", "h1")


def test_an_unwritable_list_does_not_stop_a_command(redis_server: RedisServer, client: Any) -> None:
    client.set(host_key("h1"), "not a list")
    trail_of(redis_server, "h1").note("start", by="h1")
    desired = DesiredStore(redis_server.url)
    desired._audit_host = "h1"
    desired.set_desired(DesiredStateRequest(account_id="a", state="stopped", token="t", by="ops", why="stop"))
    assert [fields[b"what"] for _, fields in client.xrange(AUDIT_KEY)] == [b"start", b"stop"]
