"""A drain reassigns or stops the workers of its host, also while other hosts and Redis fail."""

import threading

from support.reconciled_host import MakeHost, ReconciledHost, assigned_host
from support.servers import RedisServer

from manager.errors import StartCancelledError
from manager.fleet.hosts import DrainRequest
from manager.host.commands import CommandContext, Forward


def silence(host: ReconciledHost, seen_by: ReconciledHost) -> None:
    """End the host's agent cleanly, and let the other host read that."""
    host.store.forget_agent(host.name)
    seen_by.clock.skip(1.0)


def test_a_drain_cancels_a_start_that_has_no_process_yet(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)
    a.set_running("x", "a")
    a.pool.starting.add("x")  # it waits for the login throttle
    a.store.request_drain("a", DrainRequest(mode="move"))
    a.reconcile(2)
    assert a.pool.starting == set()
    b.reconcile(2)
    assert b.pool.started == ["x"]


def test_a_drain_places_again_when_the_chosen_host_is_gone_after_the_stop(make_host: MakeHost) -> None:
    a, b, c = (make_host(name) for name in "abc")
    a.account("x", 1)
    a.pool.live["x"] = a.set_running("x", "a").generation
    a.pool.while_stopping = lambda: silence(b, a)
    a.store.request_drain("a", DrainRequest(mode="move"))
    a.reconcile(2)
    c.reconcile(2)
    assert c.pool.started == ["x"]


def test_an_account_that_a_drain_cannot_place_stays_assigned_and_is_reported(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)
    a.pool.live["x"] = a.set_running("x", "a").generation
    a.pool.while_stopping = lambda: silence(b, a)
    a.store.request_drain("a", DrainRequest(mode="move"))
    a.reconcile(2)
    report = a.reconciler.drain.explain()
    assert report is not None
    assert report.why is not None
    assert "b: its agent is silent" in report.why["x"]
    b.report()
    a.reconcile(2)
    b.reconcile(2)
    assert b.pool.started == ["x"]


def test_a_drain_stops_no_worker_that_no_host_has_room_for(make_host: MakeHost) -> None:
    """Reservations count while stops take long, in every reconciliation."""
    a, _ = make_host("a"), make_host("b", capacity=2)
    for login in range(1, 6):
        a.account(f"x{login}", login)
        a.pool.live[f"x{login}"] = a.set_running(f"x{login}", "a").generation
    slow = threading.Event()
    a.pool.while_stopping = lambda: slow.wait(10)
    a.store.request_drain("a", DrainRequest(mode="move"))
    for _ in range(3):
        a.clock.skip(1.0)
        a.reconciler.reconcile()
    progress = a.reconciler.drain.explain()
    assert progress is not None
    assert (progress.leaving, progress.staying) == (2, 3)
    assert all("b: it is full: 2 of 2 workers" in why for why in (progress.why or {}).values()), progress
    slow.set()
    a.reconcile()
    assert len(a.pool.live) == 3


def test_a_start_that_a_drain_cancels_continues_on_the_next_host(make_host: MakeHost) -> None:
    a, b = make_host("a"), make_host("b")
    a.account("x", 1)

    def broken_off() -> None:
        a.store.request_drain("a", DrainRequest(mode="move"))
        a.reconciler.drain_state.read()
        raise StartCancelledError("x: a stop arrived while it was starting")

    a.pool.while_starting = broken_off
    assert a.commands.start("x", True, True, CommandContext("t1")) == Forward("b")
    assert assigned_host(b, "x") == "b"


def test_a_drain_that_redis_lost_is_restored_unless_it_was_resumed(
    make_host: MakeHost, redis_server: RedisServer
) -> None:
    a = make_host("a")
    a.store.request_drain("a", DrainRequest(mode="move"))
    a.reconcile()
    redis_server.forget()
    a.reconcile()
    assert a.store.drain("a") == DrainRequest(mode="move")
    redis_server.forget()
    read = a.store.drain

    def late(host: str) -> DrainRequest | None:
        found = read(host)
        a.store.request_drain("a", DrainRequest(mode="off"))  # an operator resumes it in this moment
        return found

    a.store.drain = late  # type: ignore[method-assign]
    a.reconciler.drain_state.read()
    a.store.drain = read  # type: ignore[method-assign]
    a.reconciler.drain_state.read()
    assert not a.reconciler.drain_state.active
