"""The live view with a real Redis: equal to a listing, also over outages."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from support.servers import RedisServer
from support.waiting import eventually

from manager.fleet import FleetStore
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.fleet.events import EVENTS_KEPT
from manager.fleet.keys import EVENTS_KEY
from manager.fleet.live_reads import LiveReads, RawHost
from manager.models import WorkerInfo
from manager.states import TradingMode
from manager.states import WorkerLifecycleStatus as S
from manager.telemetry.fleet_state import FleetState
from manager.telemetry.view import FleetView, ViewUpdate

STALE = 1.0


@pytest.fixture
def server(redis_server: RedisServer) -> RedisServer:
    return redis_server


@pytest.fixture
def store(server: RedisServer) -> Iterator[FleetStore]:
    found = FleetStore(server.url, stale_after_seconds=STALE)
    yield found
    found.close()


@pytest.fixture
def view(server: RedisServer) -> Iterator[FleetView]:
    reads = LiveReads(server.url, events_kept=EVENTS_KEPT)
    view = FleetView(reads, DesiredStore(server.url), stale_after_seconds=STALE)
    assert view.start(wait_seconds=5)
    yield view
    view.close()
    reads.close()


def info(account_id: str, status: S = S.RUNNING, worker_id: str = "") -> WorkerInfo:
    return WorkerInfo(
        worker_id=worker_id or f"w-{account_id}", account_id=account_id, status=status, metadata={"epoch": 3}
    )


def beat(account_id: str, worker_id: str = "", **figures: Any) -> dict[str, Any]:
    return {
        "worker_id": worker_id or f"w-{account_id}",
        "loop_age_seconds": 0.0,
        "health": "healthy",
        **figures,
    }


def without_ages(workers: list[WorkerInfo]) -> list[dict[str, Any]]:
    rows = [info.to_dict() for info in workers]
    for row in rows:
        row["metadata"].pop("heartbeat_age_seconds", None)
        row["error"] = (row["error"] or "").split(" for ")[0]
        row["metadata"]["health_reason"] = (row["metadata"].get("health_reason") or "").split(" for ")[0]
    return rows


class Listener:
    def __init__(self, view: FleetView) -> None:
        self.updates: list[ViewUpdate] = []
        view.subscribe(self.updates.append)

    def changed(self) -> set[str]:
        return {account for update in self.updates for account in update.changes.accounts}

    def events(self) -> list[str]:
        return [f"{event.account_id}:{event.type}" for update in self.updates for event in update.events]


def test_an_event_changes_the_view_and_reaches_subscribers(store: FleetStore, view: FleetView) -> None:
    store.report_agent("h", {})
    listener = Listener(view)
    store.record("h", [info("a", S.STARTING)], {})
    store.record("h", [info("a")], {"a": beat("a", equity="9.99")})
    eventually(lambda: listener.events() == ["a:worker.starting", "a:worker.running"], within=3)
    found = view.worker("a")
    assert found is not None
    eventually(lambda: (view.worker("a") or found).status == "running", within=3)
    assert view.cursor == store.stream.cursor("$")
    assert "a" in listener.changed()


def test_a_worker_whose_heartbeat_stops_becomes_unknown_without_any_event(
    store: FleetStore, view: FleetView
) -> None:
    store.report_agent("h", {})
    store.record("h", [info("a")], {"a": beat("a")})
    view.interested()
    eventually(lambda: (found := view.worker("a")) is not None and found.status == "unknown", within=5)
    assert without_ages(view.workers()) == without_ages(store.list_workers())


def test_a_worker_recorded_before_the_first_report_of_its_host_is_known_after_it(
    store: FleetStore, view: FleetView
) -> None:
    store.record("h", [info("a", S.STARTING)], {})
    eventually(lambda: (found := view.worker("a")) is not None and found.status == "unknown", within=5)
    store.report_agent("h", {})
    eventually(lambda: (found := view.worker("a")) is not None and found.status == "starting", within=5)


def test_figures_do_not_change_the_state(store: FleetStore, view: FleetView) -> None:
    store.report_agent("h", {})
    store.record("h", [info("a")], {"a": beat("a", equity="1")})
    eventually(lambda: (found := view.worker("a")) is not None and found.status == "running", within=3)
    listener = Listener(view)
    store.record("h", [], {"a": beat("a", equity="2")})
    eventually(lambda: any("a" in update.changes.figures for update in listener.updates), within=3)
    assert "a" not in listener.changed()
    found = view.worker("a")
    assert found is not None
    assert found.metadata["equity"] == "2"


def test_the_view_never_differs_from_a_listing(
    store: FleetStore, view: FleetView, server: RedisServer
) -> None:
    """Compare view and listing after random changes of all records."""
    choose = random.Random(7)
    desired = DesiredStore(server.url)
    accounts = [f"account-{number}" for number in range(12)]
    statuses = [S.STARTING, S.RUNNING, S.STOPPING, S.STOPPED, S.FAILED, S.RESTARTING]
    for round_ in range(5):
        for host in ("h-1", "h-2"):
            if choose.random() < 0.8:
                store.report_agent(host, {"workers": round_})
            chosen = choose.sample(accounts, 4)
            infos = [
                info(account_id, choose.choice(statuses), f"w-{choose.randrange(3)}") for account_id in chosen
            ]
            beats = {one.account_id: beat(one.account_id, one.worker_id, equity=str(round_)) for one in infos}
            store.record(host, infos, beats)
        if choose.random() < 0.3:
            store.forget_worker("h-1", choose.choice(accounts))
        desired.set_desired(
            DesiredStateRequest(
                account_id=choose.choice(accounts), state="running", token=f"t-{round_}", by="t", why="start"
            )
        )
        view.interested()
        eventually(lambda: without_ages(view.workers()) == without_ages(store.list_workers()), within=40)
    assert view.drift == 0


def test_during_an_outage_no_worker_counts_as_running(
    store: FleetStore, view: FleetView, server: RedisServer
) -> None:
    store.report_agent("h", {})
    store.record("h", [info("a"), info("b", S.STOPPED)], {"a": beat("a")})
    eventually(lambda: len(view.workers()) == 2, within=3)
    server.stop()
    eventually(lambda: view.workers()[0].status == "unknown", within=10)
    first, second = view.workers()
    assert first.error is not None
    assert "Redis cannot be reached" in first.error
    assert second.status == "stopped"
    assert view.away_since_seconds is not None
    server.start()
    store.record("h", [info("a")], {"a": beat("a")})
    eventually(lambda: view.away_since_seconds is None and view.workers()[0].status == "running", within=10)


def test_lost_data_of_redis_is_reported(store: FleetStore, view: FleetView, server: RedisServer) -> None:
    store.report_agent("h", {})
    store.record("h", [info("a")], {"a": beat("a")})
    eventually(lambda: len(view.workers()) == 1, within=3)
    listener = Listener(view)
    view.interested()
    before = view.cursor
    server.forget()
    eventually(lambda: any(update.lost for update in listener.updates), within=5)
    assert view.workers() == []
    assert view.cursor is not None
    assert before is not None
    assert view.cursor.stream != before.stream


def test_heartbeat_ages_grow_though_no_heartbeat_comes(store: FleetStore, view: FleetView) -> None:
    store.report_agent("h", {"workers": 1})
    store.record("h", [info("a")], {"a": beat("a")})

    def age() -> float:
        with view.reading() as state:
            return state.heartbeat_ages().get("a", -1.0)

    eventually(lambda: age() >= 0, what="the view has the heartbeat")
    first = age()
    eventually(lambda: age() > first + 0.5, what="its age grows")


def raw_host(now: float, status: S, beats: dict[bytes, bytes]) -> RawHost:
    record = info("a", status, "w-1").model_dump_json().encode()
    return RawHost(f"{now} {{}}".encode(), None, 1, {b"a": record}, beats)


def test_a_renamed_hosts_worker_goes_stale_although_its_heartbeat_has_the_old_name() -> None:
    """The new name has the running record; the worker sends its heartbeats under the name it started with."""
    state = FleetState(stale_after_seconds=10)
    sent = {b"a": b"100.0 " + json.dumps(beat("a", "w-1")).encode()}

    def hosts(now: float) -> dict[str, RawHost]:
        # The record of the host that reported last counts.
        return {"old": raw_host(now - 1, S.STOPPING, sent), "new": raw_host(now, S.RUNNING, {})}

    state.replace(hosts(100.0), {}, 100.0)
    found = state.worker("a")
    assert found is not None
    assert found.status == "running"
    changes = state.refresh(hosts(111.0), {}, 111.0)
    assert changes.accounts == {"a"}
    found = state.worker("a")
    assert found is not None
    assert found.status == "unknown"


def test_a_pause_is_in_the_view_with_the_event_that_it_was_asked_for(
    store: FleetStore, server: RedisServer
) -> None:
    reads = LiveReads(server.url, events_kept=EVENTS_KEPT)
    desired = DesiredStore(server.url)
    wanted = DesiredStateRequest(account_id="a", state="running", token="t-1", by="ops", why="start")
    desired.set_desired(wanted)
    store.record("h", [info("a")], {"a": beat("a")})
    view = FleetView(reads, desired, clock=lambda: 0.0)  # nothing becomes due but what events bring
    view.step()
    view.step()
    listener = Listener(view)
    desired.set_mode("a", TradingMode.PAUSED, token="t-2", by="ops", what="pause")
    view.step()
    assert listener.events() == ["a:command.asked"]
    found = view.desired("a")
    assert found is not None
    assert (found.mode, listener.changed()) == (TradingMode.PAUSED, {"a"})
    reads.close()


def test_a_view_that_was_suspended_while_events_were_trimmed_says_so(
    store: FleetStore, server: RedisServer
) -> None:
    reads = LiveReads(server.url, events_kept=5)
    view = FleetView(reads, DesiredStore(server.url), clock=lambda: 0.0)
    store.record("h", [info("a")], {"a": beat("a")})
    view.step()
    view.step()
    listener = Listener(view)
    store.record("h", [info(f"b-{number}") for number in range(20)], {})
    with server.client() as client:
        client.xtrim(EVENTS_KEY, maxlen=5, approximate=False)
    view.step()
    view.step()
    assert [update.lost for update in listener.updates if update.lost] == [True]
    assert "b-0" in listener.changed()
    assert view.cursor == store.stream.cursor("$")
    reads.close()
