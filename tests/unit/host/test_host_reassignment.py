"""Accounts that are reassigned by moves and failover while hosts die and Redis loses data."""

import pytest
from support.reconciled_host import MakeHost, ReconciledHost, assigned_host
from support.servers import RedisServer
from support.waiting import eventually

from manager.errors import CommandRefusedError, HostUnavailableError, SessionHeldError
from manager.fleet.desired import DRAIN, MOVE, DesiredStateRequest
from manager.fleet.leases import LeaseStore
from manager.host.commands import CommandContext, Forward
from manager.host.reconcile.hang_grace import HangGrace
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus


def test_an_account_reassigned_to_a_full_host_waits_for_room_and_reports_why(make_host: MakeHost) -> None:
    b = make_host("b", capacity=1)
    b.account("x", 1)
    b.set_running("full", "b")
    b.pool.live["full"] = 1
    assert b.desired.reassign(b.set_running("x", "a"), "b", DRAIN)
    b.reconcile(30)  # more often than recovery.max_restarts
    assert b.pool.started == []
    assert "it is full: 1 of 1 workers" in b.pool.abandoned["x"]
    b.pool.live.clear()
    b.desired.set_desired(
        DesiredStateRequest(account_id="full", state="stopped", token="t2", by="me", why="stop")
    )
    b.reconcile(2)
    assert b.pool.started == ["x"]


def test_an_outage_of_redis_counts_as_no_failure_of_an_account(
    make_host: MakeHost, redis_server: RedisServer
) -> None:
    b = make_host("b")
    b.account("x", 1)
    assert b.desired.reassign(b.set_running("x", "a"), "b", DRAIN)
    b.reconciler.desired_cache.read()
    redis_server.stop()
    b.reconcile(30)
    assert b.pool.started == []
    redis_server.start()
    b.reconcile(2)
    assert b.pool.started == ["x"]


def test_a_start_waits_for_a_session_that_another_worker_holds(make_host: MakeHost) -> None:
    b = make_host("b")
    b.account("x", 1)
    assert b.desired.reassign(b.set_running("x", "a"), "b", DRAIN)
    b.pool.fails["x"] = SessionHeldError("worker w-1 on host a has it")
    b.reconcile(30)
    assert b.pool.abandoned["x"] == "worker w-1 on host a has it"
    b.pool.fails.clear()
    b.reconcile(2)
    assert b.pool.started == ["x"]


def test_broken_account_files_do_not_prevent_the_failover_of_other_accounts(make_host: MakeHost) -> None:
    b = make_host("b")
    for login, account_id in enumerate((*(f"broken-{n}" for n in range(8)), "good"), 1):
        if account_id == "good":
            b.account(account_id, login, failover="auto")
        b.set_running(account_id, "lost", failover=True)
    # There is no lease. Its key may have been deleted, so a lease time must pass first.

    def taken_over() -> bool:
        b.reconcile()
        return bool(b.pool.started)

    eventually(taken_over)
    assert b.pool.started == ["good"]


def test_the_first_account_at_an_address_stays_even_if_the_others_command_is_older(
    make_host: MakeHost,
) -> None:
    shared = {"egress_ip": "203.0.113.9"}
    one, two = make_host("one", labels=shared), make_host("two", labels=shared)
    three = make_host("three", labels={"egress_ip": "203.0.113.1"})
    one.account("x", 1)
    one.account("shy", 2, avoid_sharing="egress_ip", host="two")
    x = three.set_running("x", "three", needs=three.configuration.load_account_config("x").needs())
    three.pool.live["x"] = x.generation
    # While x stops to move to `one`, shy comes to `two`: no account of its server is at that address yet.
    two.commands.start("shy", True, True, CommandContext("t-shy"))
    three.pool.live.clear()
    three.reconciler.desired_cache.read()
    assert three.reconciler.desired_cache.reassign(x, "one", DRAIN)
    one.reconcile(3)
    assert one.pool.started == []
    assert assigned_host(one, "x") == "three"


def test_a_restarted_agent_starts_no_more_accounts_than_fit(make_host: MakeHost) -> None:
    """Two managers each assigned the last free place, and the tasks are lost."""
    b = make_host("b", capacity=1)
    for login, account_id in enumerate(("x", "y"), 1):
        b.account(account_id, login)
        b.set_running(account_id, "b")
    b.reconciler.desired_cache.read()
    b.reconciler.start_missing(at_once=True)
    b.reconcile(2)
    assert b.pool.started == ["x"]
    assert "it is full" in b.pool.abandoned["y"]


def test_a_start_follows_an_account_that_was_reassigned_meanwhile(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)
    a.set_running("x", token="t1")

    def moved(*_: object) -> None:
        b.set_running("x", "b", token="t2", why=MOVE)

    a.router.place = moved  # type: ignore[method-assign, assignment]
    assert a.commands.start("x", True, True, CommandContext("t1")) == Forward("b")
    assert a.pool.started == []


def test_a_start_does_not_undo_a_reassignment_by_its_host(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)
    a.set_running("x", "a", token="t1")

    def drained(*_: object) -> None:
        desired = a.desired.read("x")
        assert desired is not None
        assert a.reconciler.desired_cache.reassign(desired, "b", DRAIN)
        b.reconcile()

    a.router.place = drained  # type: ignore[method-assign, assignment]
    assert isinstance(a.commands.start("x", True, True, CommandContext("t1")), Forward)
    assert b.pool.started == ["x"]
    assert assigned_host(b, "x") == "b"


def test_a_worker_that_has_its_lease_keeps_its_account(make_host: MakeHost) -> None:
    """The start had passed every check when the account was reassigned. The lease holder has the session."""
    a = make_host("a")
    a.account("x", 1)
    desired = a.set_running("x", "a")
    claims = ("paper:S:1",)
    epoch = a.lease_store.acquire(
        claims, host="a", worker_id="w", account_id="x", ttl_seconds=0, quarantine_seconds=0
    )
    a.pool.live["x"], a.pool.epochs["x"] = desired.generation, (claims, epoch)
    make_host("b")
    assert a.desired.reassign(desired, "b", DRAIN)
    a.reconcile()
    assert assigned_host(a, "x") == "b", "not in the first pass: it may be about to end"
    a.reconcile(2)
    assert assigned_host(a, "x") == "a"
    # A worker that has lost its lease does not count.
    a.lease_store.release(claims, epoch)
    taken = a.desired.read("x")
    assert taken is not None
    assert a.desired.reassign(taken, "b", DRAIN)
    a.reconcile(4)
    assert assigned_host(a, "x") == "b"


def test_an_uncertain_host_outlives_a_refused_start_and_the_agent(
    make_host: MakeHost, redis_server: RedisServer
) -> None:
    """Its host is paused with a trading worker when Redis loses its data: no other host may start it."""
    one, two = make_host("one"), make_host("two")
    one.account("x", 1)
    one.set_running("x", "one")
    two.reconcile()
    redis_server.forget()
    LeaseStore(redis_server.url).trust()
    two.report()

    def refuses(host: ReconciledHost, token: str) -> None:
        host.set_running("x", token=token)
        with pytest.raises(HostUnavailableError, match="ran on host one when Redis lost its data"):
            host.commands.start("x", True, True, CommandContext(token))
        host.reconcile()
        assert host.pool.started == []

    refuses(two, "first")
    refuses(make_host("two"), "second")


def test_a_reassignment_that_redis_lost_is_restored_by_the_host_that_made_it(
    make_host: MakeHost, redis_server: RedisServer
) -> None:
    a, b, c = (make_host(name) for name in "abc")
    a.account("x", 1)
    x = a.set_running("x", "a")
    for host in (a, b, c):
        host.reconciler.desired_cache.read()
    assert a.reconciler.desired_cache.reassign(x, "b", DRAIN)
    redis_server.forget()
    LeaseStore(redis_server.url).trust()
    for host in (c, b, a, b):
        host.reconcile()
    assert b.pool.started == ["x"]


def test_a_refused_start_does_not_withdraw_a_later_stop(make_host: MakeHost) -> None:
    a = make_host("a")
    a.account("x", 1)
    a.set_running("x", "a")
    cache = a.reconciler.desired_cache
    generation, _ = cache.set_desired(
        DesiredStateRequest(
            account_id="x", state="running", token="t2", by="me", why="restart", restart=True, host="a"
        )
    )
    read = a.desired.read

    def slow_read(account_id: str) -> object:
        found = read(account_id)
        cache.set_desired(
            DesiredStateRequest(account_id="x", state="stopped", token="t3", by="me", why="stop")
        )
        return found

    a.desired.read = slow_read  # type: ignore[assignment]
    cache.withdraw("x", generation)
    known = cache.get("x")
    assert known is not None
    assert not known.running


def test_a_refused_start_that_was_forwarded_leaves_no_uncertain_host(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)
    generation, _ = a.reconciler.set_desired(
        DesiredStateRequest(account_id="x", state="running", token="t1", by="me", why="start", host="b")
    )
    b.reconciler.desired_cache.withdraw("x", generation)
    a.reconcile()
    assert a.reconciler.desired_cache.uncertain_host("x") is None


def test_an_account_whose_task_is_lost_is_claimed_by_one_host(
    make_host: MakeHost,
) -> None:
    """A message can be lost: the start was recorded as desired state without a host."""
    a, b = make_host("a", capacity=1), make_host("b")
    a.account("x", 1)
    a.account("pinned", 2, host="a")
    a.set_running("x")
    a.set_running("pinned")
    for host in (a, b):
        host.reconcile(2)
    assert a.pool.started == b.pool.started == [], "its task may still come"
    a = make_host("a", capacity=1, task_grace_seconds=-1.0)
    b = make_host("b", task_grace_seconds=-1.0)
    for _ in range(2):
        for host in (a, b):
            host.reconcile(2)
    assert (a.pool.started, b.pool.started) == (["pinned"], ["x"])


def test_an_account_whose_host_redis_has_lost_is_claimed_by_no_other_host(
    make_host: MakeHost, redis_server: RedisServer
) -> None:
    lost, a = make_host("lost"), make_host("a", task_grace_seconds=-1.0)
    a.account("x", 1)
    lost.set_running("x", "lost")
    a.reconcile()
    redis_server.forget()
    LeaseStore(redis_server.url).trust()
    a.reconcile()
    a.set_running("x", token="again")
    a.reconcile(3)
    assert a.reconciler.desired_cache.uncertain_host("x") == "lost"
    assert a.pool.started == []
    assert assigned_host(a, "x") == ""


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


@pytest.mark.parametrize("ended", [False, True])
def test_a_stop_for_a_renamed_host_goes_to_its_new_name(make_host: MakeHost, ended: bool) -> None:
    new, other = make_host("new"), make_host("other")
    new.account("x", 1)
    new.set_running("x", "old")
    status = WorkerLifecycleStatus.STOPPED if ended else WorkerLifecycleStatus.RUNNING
    info = WorkerInfo(worker_id="w", account_id="x", status=status, metadata={"host": "new"})
    new.store.record("old", [info.with_(metadata={"host": "old"})], {})
    new.store.record("new", [info], {})
    assert other.commands.stop("x", None, CommandContext("t-stop")) == Forward("new")
    if not ended:
        new.pool.live["x"] = 1
    assert new.commands.stop("x", None, CommandContext("t-stop")) is True
    assert new.pool.live == {}


def test_a_start_of_an_account_on_a_renamed_host_goes_to_its_new_name(make_host: MakeHost) -> None:
    new, other = make_host("z-new"), make_host("a-other")
    new.account("x", 1)
    new.set_running("x", "old")
    info = WorkerInfo(
        worker_id="w", account_id="x", status=WorkerLifecycleStatus.RUNNING, metadata={"host": "z-new"}
    )
    new.store.record("old", [info.with_(metadata={"host": "old"})], {})
    new.store.record("z-new", [info], {})
    assert other.commands.start("x", True, True, CommandContext("t-start")) == Forward("z-new")


def test_a_stop_for_a_silent_host_is_an_error_that_names_it(make_host: MakeHost) -> None:
    """Another host had the account before and does not know where its worker is."""
    b = make_host("b")
    b.account("x", 1)
    b.set_running("x", "a")
    info = WorkerInfo(
        worker_id="w", account_id="x", status=WorkerLifecycleStatus.STOPPED, metadata={"host": "b"}
    )
    b.store.record("b", [info], {})
    with pytest.raises(HostUnavailableError, match="host a, which has it, is silent"):
        b.commands.stop("x", None, CommandContext("t-stop"))


def test_a_stop_without_its_task_stops_an_account_that_failed_before(make_host: MakeHost) -> None:
    b = make_host("b")
    for account_id in ("asked", "refused"):
        b.account(account_id, 1)
        desired = b.set_running(account_id, "b")
        b.pool.failed.add(account_id)
        b.pool.fails[account_id] = CommandRefusedError(f"{account_id}: refused")
    b.desired.set_desired(
        DesiredStateRequest(account_id="asked", state="stopped", token="t", by="me", why="stop")
    )
    b.desired.withdraw("refused", desired.generation)
    b.reconcile()
    eventually(lambda: "asked" not in b.pool.failed)
    b.reconcile(2)
    assert b.pool.failed == {"refused"}, "the reason of the refusal stays visible"


def test_a_step_that_fails_does_not_prevent_the_later_ones(make_host: MakeHost) -> None:
    """With too many open files one step fails every time. What should run is started all the same."""
    host = make_host("one")
    host.account("a", 1)
    host.set_running("a", "one", why=DRAIN)

    def fails(_host: str) -> None:
        raise OSError(24, "Too many open files")

    host.store.drain = fails  # type: ignore[method-assign, assignment]
    host.reconcile()
    assert host.pool.started == ["a"]
    assert any("Too many open files" in str(thread.trouble) for thread in host.reconciler.threads)
