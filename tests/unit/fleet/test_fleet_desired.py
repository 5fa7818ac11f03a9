"""Desired state on a real Redis."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.servers import RedisServer

import manager.fleet.desired_store as desired_module
from manager.errors import FleetUnavailableError
from manager.fleet.desired import DesiredState, DesiredStateRequest
from manager.fleet.desired_store import DESIRED_KEY, DesiredStore
from manager.states import TradingMode


def change(
    state: Any = "running", token: str = "t1", account_id: str = "a", **more: Any
) -> DesiredStateRequest:
    return DesiredStateRequest(
        account_id=account_id, state=state, token=token, by="me@here", why="start", **more
    )


@pytest.fixture
def store(redis_server: RedisServer) -> Iterator[DesiredStore]:
    found = DesiredStore(redis_server.url)
    yield found
    found.close()


def test_a_wish_is_written_with_who_when_and_why(store: DesiredStore) -> None:
    generation, desired = store.set_desired(change(host="h1", failover=True, validate=False))
    assert desired == store.read("a")
    assert (desired.state, desired.generation, desired.host) == ("running", generation, "h1")
    assert (desired.by, desired.why, desired.failover, desired.validate) == ("me@here", "start", True, False)
    assert abs(desired.at - generation) < 1000


def test_the_same_command_twice_is_one(store: DesiredStore) -> None:
    first, _ = store.set_desired(change())
    again, _ = store.set_desired(change())
    assert first == again


def test_an_older_command_that_comes_late_learns_what_is_wanted_now(store: DesiredStore) -> None:
    old, _ = store.set_desired(change("running", "t1"))
    new, _ = store.set_desired(change("stopped", "t2"))
    generation, desired = store.set_desired(change("running", "t1"))
    assert (generation, desired.generation, desired.state) == (old, new, "stopped")
    assert new > old


def test_the_host_that_carries_a_command_out_becomes_its_host(store: DesiredStore) -> None:
    generation, before = store.set_desired(change())
    assert before.host == ""
    again, desired = store.set_desired(change(host="h2"))
    assert (again, desired.host) == (generation, "h2")
    _, stopped = store.set_desired(change("stopped", "t2"))
    assert stopped.host == "h2"


def test_a_restart_asks_for_a_worker_of_its_own_generation_or_later(store: DesiredStore) -> None:
    store.set_desired(change())
    generation, desired = store.set_desired(change(token="t2", restart=True))
    assert desired.restart == generation
    _, later = store.set_desired(change(token="t3"))
    assert later.restart == generation


def test_what_was_refused_was_never_wanted(store: DesiredStore) -> None:
    store.set_desired(change("running", "t1", host="h1"))
    generation, _ = store.set_desired(change("running", "t2", host="h2", restart=True))
    store.withdraw("a", generation)
    desired = store.read("a")
    assert desired is not None
    assert (desired.state, desired.host, desired.restart) == ("running", "h1", 0)
    generation, _ = store.set_desired(change("running", "t3", "new"))
    store.withdraw("new", generation)
    assert store.read("new") is not None
    assert store.desired_accounts() == ["a"]


def test_a_late_withdrawal_takes_nothing_from_a_later_command(store: DesiredStore) -> None:
    old, _ = store.set_desired(change("running", "t1"))
    store.set_desired(change("running", "t2"))
    store.withdraw("a", old)
    assert store.desired_accounts() == ["a"]


def test_what_redis_lost_is_restored_and_nothing_later_overwritten(
    store: DesiredStore, redis_server: RedisServer
) -> None:
    _, desired = store.set_desired(change(host="h1"))
    assert store.restore(desired) is False
    redis_server.forget()
    assert store.restore(desired) is True
    assert store.read("a") == desired
    store.set_desired(change("stopped", "t2"))
    assert store.restore(desired) is False


def test_only_one_host_takes_over(store: DesiredStore) -> None:
    _, desired = store.set_desired(change(host="lost"))
    taken = store.reassign(desired, "h2")
    assert taken is not None
    assert store.reassign(desired, "h3") is None
    assert store.read("a") == taken
    assert (taken.host, taken.generation, taken.handed) == ("h2", desired.generation, True)


def test_who_gave_an_account_away_does_not_take_it_back_by_the_same_command(store: DesiredStore) -> None:
    _, desired = store.set_desired(change(host="h1"))
    assert store.reassign(desired, "h2") is not None
    assert store.set_desired(change(host="h1", writer="h1"))[1].host == "h2"
    assert store.set_desired(change(host="h3", writer="h2"))[1].host == "h3", "who has it may pass it on"
    assert store.set_desired(change(token="t2", host="h1", writer="h1"))[1].host == "h1", "a new command may"


def test_a_stop_that_lay_in_a_queue_for_days_stops_nothing_that_was_started_since(
    store: DesiredStore, redis_server: RedisServer
) -> None:
    store.set_desired(change(host="one"))
    old, _ = store.set_desired(change("stopped", "friday"))
    new, _ = store.set_desired(change(token="monday", host="two"))
    with redis_server.client() as client:
        client.delete("manager:seen:friday")  # tokens are kept for a day
    generation, desired = store.set_desired(change("stopped", "friday", given=old))
    assert (generation, desired.generation, desired.running) == (old, new, True)


def test_a_command_whose_writing_redis_has_lost_counts_by_when_it_was_given(
    store: DesiredStore, redis_server: RedisServer
) -> None:
    store.set_desired(change(host="one"))
    given, _ = store.set_desired(change("stopped", "t2"))
    redis_server.forget()
    generation, desired = store.set_desired(change("stopped", "t2", given=given))
    assert (generation, desired.state) == (given, "stopped")
    # A forger's generation of the far future is none.
    assert store.set_desired(change(token="t3", given=given + 10**12))[0] < given + 10**9


def test_an_account_has_its_place_since_it_came_there_whatever_is_commanded_since(
    store: DesiredStore,
) -> None:
    _, first = store.set_desired(change(host="h1"))
    _, again = store.set_desired(change(token="t2", host="h1", restart=True))
    assert again.generation > first.generation
    assert again.claimed == first.claimed
    moved = store.reassign(again, "h2")
    assert moved is not None
    assert moved.claimed >= first.claimed
    generation, _ = store.set_desired(change(token="t3", host="h3"))
    store.withdraw("a", generation)
    assert store.read("a") is not None
    assert (store.read("a") or first).claimed == moved.claimed


def test_a_stop_nudges_the_host_that_has_the_account(store: DesiredStore) -> None:
    assert store.next_urgent_stop("h1", 1) is None
    store.set_desired(change(host="h1"))
    store.set_desired(change("stopped", "t2", timeout=2.5))
    urgent_stop = store.next_urgent_stop("h1", 1)
    assert urgent_stop is not None
    assert (urgent_stop.account_id, urgent_stop.token) == ("a", "t2")
    desired = store.read("a")
    assert desired is not None
    assert desired.timeout == 2.5


def test_a_snapshot_is_read_only_when_something_changed(store: DesiredStore) -> None:
    store.set_desired(change())
    first = store.snapshot()
    assert first is not None
    assert set(first.desired) == {"a"}
    assert store.snapshot(first.version) is None
    store.set_desired(change(token="t2", account_id="b"))
    assert set((store.snapshot(first.version) or first).desired) == {"a", "b"}


@pytest.mark.parametrize(
    "nonsense",
    [
        "",
        "hello",
        "[]",
        "{}",
        '{"state": "on", "generation": 1}',
        '{"state": "running", "generation": "many"}',
    ],
)
def test_nonsense_is_named_and_the_next_command_mends_it(
    store: DesiredStore, redis_server: RedisServer, nonsense: str
) -> None:
    with redis_server.client() as client:
        client.hset(DESIRED_KEY, "a", nonsense)
    snapshot = store.snapshot(-1)
    assert snapshot is not None
    assert snapshot.broken == {"a"}
    assert store.read("a") is None
    _, desired = store.set_desired(change())
    assert store.read("a") == desired


def test_json_both_ways() -> None:
    desired = DesiredState(account_id="a", state="stopped", generation=7, restart=3, host="h", by="x", at=9)
    assert DesiredState.from_json("a", desired.to_json()) == desired
    assert json.loads(desired.to_json())["generation"] == 7


def test_what_nobody_ever_had_is_forgotten_after_a_day_and_nothing_else(
    store: DesiredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for account_id in ("mistyped", "later"):
        generation, _ = store.set_desired(change(account_id=account_id, token=f"t-{account_id}"))
        store.withdraw(account_id, generation)
    store.set_desired(change(host="h1", account_id="runs", token="t2"))
    store.set_desired(change("stopped", account_id="runs", token="t3"))
    assert store.tidied_seconds_ago() is None
    assert store.tidy() == 0
    monkeypatch.setattr(desired_module, "_REFUSED_KEPT_MS", -1000)
    snapshot = store.snapshot

    def and_then(known_version: int | None = None) -> Any:
        found = snapshot(known_version)
        store.set_desired(change(account_id="later", token="t4"))  # it is asked for in this moment
        return found

    monkeypatch.setattr(store, "snapshot", and_then)
    assert store.tidy() == 1
    assert set(store.read_many(["mistyped", "later", "runs"])) == {"later", "runs"}
    assert (store.tidied_seconds_ago() or 0.0) < 60


def test_a_redis_that_is_away_is_one_kind_of_error(store: DesiredStore, redis_server: RedisServer) -> None:
    redis_server.stop()
    for call in (
        lambda: store.set_desired(change()),
        lambda: store.withdraw("a", 1),
        store.snapshot,
        lambda: store.next_urgent_stop("h", 1),
    ):
        with pytest.raises(FleetUnavailableError):
            call()


# trading modes


def set_mode(store: DesiredStore, mode: TradingMode, token: str) -> DesiredState | None:
    return store.set_mode("a", mode, token=token, by="me@here", what="pause")


def test_a_mode_is_kept_by_every_start_and_stop_and_changes_no_generation(store: DesiredStore) -> None:
    generation, _ = store.set_desired(change(host="h1"))
    paused = set_mode(store, TradingMode.PAUSED, "p1")
    assert paused is not None
    assert (paused.mode, paused.mode_by, paused.generation) == ("paused", "me@here", generation)
    for number, state in enumerate(("stopped", "running"), 2):
        assert store.set_desired(change(state, f"t{number}"))[1].mode == "paused"
    moved = store.reassign(store.read("a") or paused, "h2")
    assert moved is not None
    assert moved.mode == "paused"


def test_a_refused_start_is_taken_back_though_a_mode_came_meanwhile(store: DesiredStore) -> None:
    generation, _ = store.set_desired(change())
    set_mode(store, TradingMode.PAUSED, "p1")
    store.withdraw("a", generation)
    now = store.read("a")
    assert now is not None
    assert (now.state, now.mode) == ("stopped", "paused")


def test_the_same_mode_command_twice_is_one(store: DesiredStore) -> None:
    """A task that is delivered again must not pause what was resumed since."""
    store.set_desired(change())
    set_mode(store, TradingMode.PAUSED, "p1")
    set_mode(store, TradingMode.NORMAL, "p2")
    again = set_mode(store, TradingMode.PAUSED, "p1")
    assert again is not None
    assert again.mode == "normal"


def test_a_mode_of_an_account_of_which_nothing_is_known_is_not_written(store: DesiredStore) -> None:
    assert set_mode(store, TradingMode.PAUSED, "p1") is None
    assert store.read("a") is None


def test_of_two_records_the_newest_mode_survives_whichever_has_the_newest_generation(
    store: DesiredStore,
) -> None:
    """A Redis that came back with older data is told the mode again, also by a host that knows an older start."""
    store.set_desired(change(host="h1"))
    paused = set_mode(store, TradingMode.PAUSED, "p1")
    assert paused is not None
    store._client.delete(DESIRED_KEY)
    later, _ = store.set_desired(change("running", "t2", host="h1"))
    assert store.restore(paused)
    now = store.read("a")
    assert now is not None
    assert (now.mode, now.generation) == ("paused", later)
    assert not store.restore(paused), "it is known by now"


def test_a_mode_that_was_refused_is_taken_back_unless_a_later_command_changed_it(store: DesiredStore) -> None:
    store.set_desired(change())
    paused = set_mode(store, TradingMode.PAUSED, "p1")
    assert paused is not None
    store.withdraw_mode(paused, TradingMode.NORMAL)
    assert (store.read("a") or paused).mode == "normal"
    again = set_mode(store, TradingMode.PAUSED, "p2")
    store.withdraw_mode(paused, TradingMode.NORMAL)
    assert again is not None
    assert (store.read("a") or paused).mode == "paused"


def test_a_forgotten_account_is_not_paused_any_more(store: DesiredStore) -> None:
    _, stopped = store.set_desired(change("stopped", "t1", host="h1"))
    set_mode(store, TradingMode.PAUSED, "p1")
    assert store.forget_account("a", stopped.generation, "h1", "me")
    assert (store.read("a") or stopped).mode == "normal"


def test_a_mode_of_a_later_version_is_read_as_paused() -> None:
    """What this version does not know must not trade by a mistake."""
    found = DesiredState.from_json(
        "a", '{"state": "running", "generation": 1, "mode": "halted", "mode_at": 5}'
    )
    assert found is not None
    assert found.mode == "paused"
