"""Accounts that go from host to host, by drains, moves and take-overs, while hosts die and Redis forgets."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from support.keeping import ReconciledHost
from support.servers import RedisServer
from support.waiting import eventually

from manager.errors import CommandRefusedError, HostUnavailableError, SessionHeldError, StartCancelledError
from manager.fleet.desired import DRAIN, MOVE, DesiredStateRequest
from manager.fleet.hosts import DrainRequest
from manager.fleet.leases import LeaseStore
from manager.host.commands import CommandContext, Forward
from manager.host.reconcile.hang_grace import HangGrace
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus


class MakeHost(Protocol):
    def __call__(self, name: str, **more: Any) -> ReconciledHost: ...


@pytest.fixture
def make_host(redis_server: RedisServer, tmp_path: Path) -> Iterator[MakeHost]:
    LeaseStore(redis_server.url).trust()
    made: list[ReconciledHost] = []

    def make(name: str, **more: Any) -> ReconciledHost:
        made.append(ReconciledHost(tmp_path, redis_server.url, name, **more))
        return made[-1]

    yield make
    for host in made:
        host.close()


def place(host: ReconciledHost, account_id: str) -> str:
    desired = host.desired.read(account_id)
    assert desired is not None
    assert desired.running
    return desired.host


def ends(host: ReconciledHost, seen_by: ReconciledHost) -> None:
    """End the host's agent cleanly, and let the other one read that."""
    host.store.forget_agent(host.name)
    seen_by.clock.skip(1.0)


def test_an_account_that_was_handed_to_a_full_host_waits_for_room_and_says_so(make_host: MakeHost) -> None:
    b = make_host("b", capacity=1)
    b.account("x", 1)
    b.wanted("full", "b")
    b.pool.live["full"] = 1
    assert b.desired.reassign(b.wanted("x", "a"), "b", DRAIN)
    b.look(30)  # more often than recovery.max_restarts
    assert b.pool.started == []
    assert "it is full: 1 of 1 workers" in b.pool.abandoned["x"]
    b.pool.live.clear()
    b.desired.set_desired(
        DesiredStateRequest(account_id="full", state="stopped", token="t2", by="me", why="stop")
    )
    b.look(2)
    assert b.pool.started == ["x"]


def test_a_redis_that_is_away_counts_against_no_account(
    make_host: MakeHost, redis_server: RedisServer
) -> None:
    b = make_host("b")
    b.account("x", 1)
    assert b.desired.reassign(b.wanted("x", "a"), "b", DRAIN)
    b.reconciler.desired_cache.read()
    redis_server.stop()
    b.look(30)
    assert b.pool.started == []
    redis_server.start()
    b.look(2)
    assert b.pool.started == ["x"]


def test_a_session_that_somebody_still_has_is_waited_for(make_host: MakeHost) -> None:
    b = make_host("b")
    b.account("x", 1)
    assert b.desired.reassign(b.wanted("x", "a"), "b", DRAIN)
    b.pool.fails["x"] = SessionHeldError("worker w-1 on host a has it")
    b.look(30)
    assert b.pool.abandoned["x"] == "worker w-1 on host a has it"
    b.pool.fails.clear()
    b.look(2)
    assert b.pool.started == ["x"]


def test_one_broken_file_keeps_no_other_lost_account_from_being_taken_over(make_host: MakeHost) -> None:
    b = make_host("b")
    for login, account_id in enumerate((*(f"broken-{n}" for n in range(8)), "good"), 1):
        if account_id == "good":
            b.account(account_id, login, failover="auto")
        b.wanted(account_id, "lost", failover=True)
    # There is no lease: its key may have gone by itself, so that a lease's time must pass first.

    def taken_over() -> bool:
        b.look()
        return bool(b.pool.started)

    eventually(taken_over)
    assert b.pool.started == ["good"]


def test_who_came_to_an_address_first_stays_there_however_old_the_others_command_is(
    make_host: MakeHost,
) -> None:
    shared = {"egress_ip": "203.0.113.9"}
    one, two = make_host("one", labels=shared), make_host("two", labels=shared)
    three = make_host("three", labels={"egress_ip": "203.0.113.1"})
    one.account("x", 1)
    one.account("shy", 2, avoid_sharing="egress_ip", host="two")
    x = three.wanted("x", "three", needs=three.configuration.load_account_config("x").needs())
    three.pool.live["x"] = x.generation
    # While x stops, to go to `one`, shy comes to `two`: nobody of its server is behind the address yet.
    two.commands.start("shy", True, True, CommandContext("t-shy"))
    three.pool.live.clear()
    three.reconciler.desired_cache.read()
    assert three.reconciler.desired_cache.reassign(x, "one", DRAIN)
    one.look(3)
    assert one.pool.started == []
    assert place(one, "x") == "three"


def test_an_agent_that_starts_again_starts_no_more_than_fit(make_host: MakeHost) -> None:
    """Two managers each gave its last place away, and its tasks are lost with it."""
    b = make_host("b", capacity=1)
    for login, account_id in enumerate(("x", "y"), 1):
        b.account(account_id, login)
        b.wanted(account_id, "b")
    b.reconciler.desired_cache.read()
    b.reconciler.start_missing(at_once=True)
    b.look(2)
    assert b.pool.started == ["x"]
    assert "it is full" in b.pool.abandoned["y"]


def test_a_drain_breaks_off_a_start_that_has_no_process_yet(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)
    a.wanted("x", "a")
    a.pool.starting.add("x")  # it waits for its turn to log in
    a.store.request_drain("a", DrainRequest(mode="move"))
    a.look(2)
    assert a.pool.starting == set()
    b.look(2)
    assert b.pool.started == ["x"]


def test_a_drain_chooses_anew_when_the_host_that_it_chose_is_gone_after_the_stop(make_host: MakeHost) -> None:
    a, b, c = (make_host(name) for name in "abc")
    a.account("x", 1)
    a.pool.live["x"] = a.wanted("x", "a").generation
    a.pool.while_stopping = lambda: ends(b, a)
    a.store.request_drain("a", DrainRequest(mode="move"))
    a.look(2)
    c.look(2)
    assert c.pool.started == ["x"]


def test_what_a_drained_host_could_not_place_after_the_stop_is_its_own_and_told(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)
    a.pool.live["x"] = a.wanted("x", "a").generation
    a.pool.while_stopping = lambda: ends(b, a)
    a.store.request_drain("a", DrainRequest(mode="move"))
    a.look(2)
    report = a.reconciler.drain.explain()
    assert report is not None
    assert report.why is not None
    assert "b: its agent is silent" in report.why["x"]
    b.report()
    a.look(2)
    b.look(2)
    assert b.pool.started == ["x"]


def test_a_drain_takes_no_worker_down_that_has_nowhere_to_go(make_host: MakeHost) -> None:
    """The places of those that are on their way count, however long their stops take and however often is looked."""
    a, _ = make_host("a"), make_host("b", capacity=2)
    for login in range(1, 6):
        a.account(f"x{login}", login)
        a.pool.live[f"x{login}"] = a.wanted(f"x{login}", "a").generation
    slow = threading.Event()
    a.pool.while_stopping = lambda: slow.wait(10)
    a.store.request_drain("a", DrainRequest(mode="move"))
    for _ in range(3):
        a.clock.skip(1.0)
        a.reconciler.reconcile()
    told = a.reconciler.drain.explain()
    assert told is not None
    assert (told.leaving, told.staying) == (2, 3)
    assert all("b: it is full: 2 of 2 workers" in why for why in (told.why or {}).values()), told
    slow.set()
    a.look()
    assert len(a.pool.live) == 3


def test_a_start_follows_an_account_that_was_given_away_meanwhile(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)
    a.wanted("x", token="t1")

    def moved(*_: object) -> None:
        b.wanted("x", "b", token="t2", why=MOVE)

    a.router.place = moved  # type: ignore[method-assign, assignment]
    assert a.commands.start("x", True, True, CommandContext("t1")) == Forward("b")
    assert a.pool.started == []


def test_a_start_does_not_take_back_what_its_host_has_handed_over(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)
    a.wanted("x", "a", token="t1")

    def drained(*_: object) -> None:
        desired = a.desired.read("x")
        assert desired is not None
        assert a.reconciler.desired_cache.reassign(desired, "b", DRAIN)
        b.look()

    a.router.place = drained  # type: ignore[method-assign, assignment]
    assert isinstance(a.commands.start("x", True, True, CommandContext("t1")), Forward)
    assert b.pool.started == ["x"]
    assert place(b, "x") == "b"


def test_a_start_that_a_drain_breaks_off_goes_on_at_the_next_host(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)

    def broken_off() -> None:
        a.store.request_drain("a", DrainRequest(mode="move"))
        a.reconciler.drain_state.read()
        raise StartCancelledError("x: a stop arrived while it was starting")

    a.pool.while_starting = broken_off
    assert a.commands.start("x", True, True, CommandContext("t1")) == Forward("b")
    assert place(b, "x") == "b"


def test_a_worker_that_has_its_lease_keeps_its_account(make_host: MakeHost) -> None:
    """A start that was past all looks when its account was given away: who holds the lease has the session."""
    a = make_host("a")
    a.account("x", 1)
    desired = a.wanted("x", "a")
    claims = ("paper:S:1",)
    epoch = a.lease_store.acquire(
        claims, host="a", worker_id="w", account_id="x", ttl_seconds=0, quarantine_seconds=0
    )
    a.pool.live["x"], a.pool.epochs["x"] = desired.generation, (claims, epoch)
    make_host("b")
    assert a.desired.reassign(desired, "b", DRAIN)
    a.look()
    assert place(a, "x") == "b", "not at the first look: it may be about to end"
    a.look(2)
    assert place(a, "x") == "a"
    # One that has lost its lease has nothing to say.
    a.lease_store.release(claims, epoch)
    taken = a.desired.read("x")
    assert taken is not None
    assert a.desired.reassign(taken, "b", DRAIN)
    a.look(4)
    assert place(a, "x") == "b"


def test_where_an_account_ran_outlives_a_refused_start_and_the_agent(
    make_host: MakeHost, redis_server: RedisServer
) -> None:
    """Its host is paused, with a worker that trades, when Redis loses all: nobody else may start it, ever so often asked."""
    one, two = make_host("one"), make_host("two")
    one.account("x", 1)
    one.wanted("x", "one")
    two.look()
    redis_server.forget()
    LeaseStore(redis_server.url).trust()
    two.report()

    def refuses(host: ReconciledHost, token: str) -> None:
        host.wanted("x", token=token)
        with pytest.raises(HostUnavailableError, match="ran on host one when Redis lost its data"):
            host.commands.start("x", True, True, CommandContext(token))
        host.look()
        assert host.pool.started == []

    refuses(two, "first")
    refuses(make_host("two"), "second")


def test_a_hand_over_that_redis_lost_is_told_again_by_the_host_that_made_it(
    make_host: MakeHost, redis_server: RedisServer
) -> None:
    a, b, c = (make_host(name) for name in "abc")
    a.account("x", 1)
    x = a.wanted("x", "a")
    for host in (a, b, c):
        host.reconciler.desired_cache.read()
    assert a.reconciler.desired_cache.reassign(x, "b", DRAIN)
    redis_server.forget()
    LeaseStore(redis_server.url).trust()
    for host in (c, b, a, b):
        host.look()
    assert b.pool.started == ["x"]


def test_a_refusal_takes_back_no_later_stop(make_host: MakeHost) -> None:
    a = make_host("a")
    a.account("x", 1)
    a.wanted("x", "a")
    wanted = a.reconciler.desired_cache
    generation, _ = wanted.set_desired(
        DesiredStateRequest(
            account_id="x", state="running", token="t2", by="me", why="restart", restart=True, host="a"
        )
    )
    read = a.desired.read

    def slow_read(account_id: str) -> object:
        found = read(account_id)
        wanted.set_desired(
            DesiredStateRequest(account_id="x", state="stopped", token="t3", by="me", why="stop")
        )
        return found

    a.desired.read = slow_read  # type: ignore[assignment]
    wanted.withdraw("x", generation)
    known = wanted.get("x")
    assert known is not None
    assert not known.running


def test_a_refused_start_leaves_no_doubt_about_a_host_that_it_was_passed_on_to(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)
    generation, _ = a.reconciler.set_desired(
        DesiredStateRequest(account_id="x", state="running", token="t1", by="me", why="start", host="b")
    )
    b.reconciler.desired_cache.withdraw("x", generation)
    a.look()
    assert a.reconciler.desired_cache.uncertain_host("x") is None


def test_an_account_whose_task_is_lost_before_any_host_got_it_is_taken_in_by_one(
    make_host: MakeHost,
) -> None:
    """A message can be lost: the start was recorded as desired state without a host."""
    a, b = make_host("a", capacity=1), make_host("b")
    a.account("x", 1)
    a.account("pinned", 2, host="a")
    a.wanted("x")
    a.wanted("pinned")
    for host in (a, b):
        host.look(2)
    assert a.pool.started == b.pool.started == [], "its task may still come"
    a = make_host("a", capacity=1, task_grace_seconds=-1.0)
    b = make_host("b", task_grace_seconds=-1.0)
    for _ in range(2):
        for host in (a, b):
            host.look(2)
    assert (a.pool.started, b.pool.started) == (["pinned"], ["x"])


def test_an_account_whose_host_redis_has_lost_is_claimed_by_no_other_host(
    make_host: MakeHost, redis_server: RedisServer
) -> None:
    lost, a = make_host("lost"), make_host("a", task_grace_seconds=-1.0)
    a.account("x", 1)
    lost.wanted("x", "lost")
    a.look()
    redis_server.forget()
    LeaseStore(redis_server.url).trust()
    a.look()
    a.wanted("x", token="again")
    a.look(3)
    assert a.reconciler.desired_cache.uncertain_host("x") == "lost"
    assert a.pool.started == []
    assert place(a, "x") == ""


def test_a_process_that_was_paused_gives_its_workers_time_before_it_calls_them_hung() -> None:
    """They were paused with it and could send no heartbeat."""
    grace = HangGrace()
    assert not grace.active(0.0)
    assert not grace.waited(1.0, 1.1, now=1000.0)
    # 60 s in a pass, as with a Redis that hangs, and no long wait: not a pause.
    assert not grace.waited(0.0, 0.0, now=1060.0)
    assert not grace.active(1060.0)
    assert grace.waited(1.0, 40.0, now=1100.0)
    assert grace.active(1109.9)
    assert not grace.active(1110.0)


def test_a_drain_that_redis_lost_is_told_again_but_over_no_resume(
    make_host: MakeHost, redis_server: RedisServer
) -> None:
    a = make_host("a")
    a.store.request_drain("a", DrainRequest(mode="move"))
    a.look()
    redis_server.forget()
    a.look()
    assert a.store.drain("a") == DrainRequest(mode="move")
    redis_server.forget()
    look = a.store.drain

    def late(host: str) -> DrainRequest | None:
        found = look(host)
        a.store.request_drain("a", DrainRequest(mode="off"))  # an operator resumes it in this moment
        return found

    a.store.drain = late  # type: ignore[method-assign]
    a.reconciler.drain_state.read()
    a.store.drain = look  # type: ignore[method-assign]
    a.reconciler.drain_state.read()
    assert not a.reconciler.drain_state.active


@pytest.mark.parametrize("ended", [False, True])
def test_a_stop_for_a_host_that_has_another_name_goes_there(make_host: MakeHost, ended: bool) -> None:
    new, other = make_host("new"), make_host("other")
    new.account("x", 1)
    new.wanted("x", "old")
    status = WorkerLifecycleStatus.STOPPED if ended else WorkerLifecycleStatus.RUNNING
    info = WorkerInfo(worker_id="w", account_id="x", status=status, metadata={"host": "new"})
    new.store.record("old", [info.with_(metadata={"host": "old"})], {})
    new.store.record("new", [info], {})
    assert other.commands.stop("x", None, CommandContext("t-stop")) == Forward("new")
    if not ended:
        new.pool.live["x"] = 1
    assert new.commands.stop("x", None, CommandContext("t-stop")) is True
    assert new.pool.live == {}


def test_a_start_of_what_runs_at_a_host_that_has_another_name_goes_there(make_host: MakeHost) -> None:
    new, other = make_host("z-new"), make_host("a-other")
    new.account("x", 1)
    new.wanted("x", "old")
    info = WorkerInfo(
        worker_id="w", account_id="x", status=WorkerLifecycleStatus.RUNNING, metadata={"host": "z-new"}
    )
    new.store.record("old", [info.with_(metadata={"host": "old"})], {})
    new.store.record("z-new", [info], {})
    assert other.commands.start("x", True, True, CommandContext("t-start")) == Forward("z-new")


def test_a_stop_for_a_host_that_is_silent_says_so(make_host: MakeHost) -> None:
    """Another host has had the account before, and knows nothing of where its worker is."""
    b = make_host("b")
    b.account("x", 1)
    b.wanted("x", "a")
    info = WorkerInfo(
        worker_id="w", account_id="x", status=WorkerLifecycleStatus.STOPPED, metadata={"host": "b"}
    )
    b.store.record("b", [info], {})
    with pytest.raises(HostUnavailableError, match="host a, which has it, is silent"):
        b.commands.stop("x", None, CommandContext("t-stop"))


def test_a_stop_that_came_without_its_task_stops_what_has_failed_before(make_host: MakeHost) -> None:
    b = make_host("b")
    for account_id in ("asked", "refused"):
        b.account(account_id, 1)
        desired = b.wanted(account_id, "b")
        b.pool.failed.add(account_id)
        b.pool.fails[account_id] = CommandRefusedError(f"{account_id}: refused")
    b.desired.set_desired(
        DesiredStateRequest(account_id="asked", state="stopped", token="t", by="me", why="stop")
    )
    b.desired.withdraw("refused", desired.generation)
    b.look()
    eventually(lambda: "asked" not in b.pool.failed)
    b.look(2)
    assert b.pool.failed == {"refused"}, "why it was refused stays told"


def test_a_step_that_fails_does_not_prevent_the_later_ones(make_host: MakeHost) -> None:
    """With too many open files one step fails every time. What should run is started all the same."""
    host = make_host("one")
    host.account("a", 1)
    host.wanted("a", "one", why=DRAIN)

    def fails(_host: str) -> None:
        raise OSError(24, "Too many open files")

    host.store.drain = fails  # type: ignore[method-assign, assignment]
    host.look()
    assert host.pool.started == ["a"]
    assert any("Too many open files" in str(thread.trouble) for thread in host.reconciler.threads)
