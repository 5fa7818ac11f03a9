"""Desired state on a real Redis."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.servers import RedisServer

from manager.errors import FleetUnavailableError
from manager.fleet import desired_store
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


def test_a_change_is_stored_with_its_sender_time_and_reason(store: DesiredStore) -> None:
    generation, desired = store.set_desired(change(host="h1", failover=True, validate=False))
    assert desired == store.read("a")
    assert (desired.state, desired.generation, desired.host) == ("running", generation, "h1")
    assert (desired.by, desired.why, desired.failover, desired.validate) == ("me@here", "start", True, False)
    assert abs(desired.at - generation) < 1000


def test_a_command_delivered_twice_acts_once(store: DesiredStore) -> None:
    first, _ = store.set_desired(change())
    again, _ = store.set_desired(change())
    assert first == again


def test_a_late_older_command_gets_the_present_desired_state(store: DesiredStore) -> None:
    old, _ = store.set_desired(change("running", "t1"))
    new, _ = store.set_desired(change("stopped", "t2"))
    generation, desired = store.set_desired(change("running", "t1"))
    assert (generation, desired.generation, desired.state) == (old, new, "stopped")
    assert new > old


def test_the_host_that_carries_out_a_command_gets_the_account(store: DesiredStore) -> None:
    generation, before = store.set_desired(change())
    assert before.host == ""
    again, desired = store.set_desired(change(host="h2"))
    assert (again, desired.host) == (generation, "h2")
    _, stopped = store.set_desired(change("stopped", "t2"))
    assert stopped.host == "h2"


def test_a_restart_requires_a_worker_of_its_generation_or_later(store: DesiredStore) -> None:
    store.set_desired(change())
    generation, desired = store.set_desired(change(token="t2", restart=True))
    assert desired.restart == generation
    _, later = store.set_desired(change(token="t3"))
    assert later.restart == generation


def test_a_withdrawal_restores_the_state_before_the_command(store: DesiredStore) -> None:
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


def test_a_late_withdrawal_does_not_undo_a_later_command(store: DesiredStore) -> None:
    old, _ = store.set_desired(change("running", "t1"))
    store.set_desired(change("running", "t2"))
    store.withdraw("a", old)
    assert store.desired_accounts() == ["a"]


def test_restore_writes_lost_state_and_overwrites_nothing_newer(
    store: DesiredStore, redis_server: RedisServer
) -> None:
    _, desired = store.set_desired(change(host="h1"))
    assert store.restore(desired) is False
    redis_server.forget()
    assert store.restore(desired) is True
    assert store.read("a") == desired
    store.set_desired(change("stopped", "t2"))
    assert store.restore(desired) is False


def test_only_one_host_gets_a_reassigned_account(store: DesiredStore) -> None:
    _, desired = store.set_desired(change(host="lost"))
    taken = store.reassign(desired, "h2")
    assert taken is not None
    assert store.reassign(desired, "h3") is None
    assert store.read("a") == taken
    assert (taken.host, taken.generation, taken.handed) == ("h2", desired.generation, True)


def test_a_host_cannot_take_back_an_account_by_the_same_command(store: DesiredStore) -> None:
    _, desired = store.set_desired(change(host="h1"))
    assert store.reassign(desired, "h2") is not None
    assert store.set_desired(change(host="h1", writer="h1"))[1].host == "h2"
    assert store.set_desired(change(host="h3", writer="h2"))[1].host == "h3", (
        "the host that has it may give it away"
    )
    assert store.set_desired(change(token="t2", host="h1", writer="h1"))[1].host == "h1", "a new command may"


def test_a_stop_that_waited_for_days_does_not_stop_a_later_start(
    store: DesiredStore, redis_server: RedisServer
) -> None:
    store.set_desired(change(host="one"))
    old, _ = store.set_desired(change("stopped", "friday"))
    new, _ = store.set_desired(change(token="monday", host="two"))
    with redis_server.client() as client:
        client.delete("manager:seen:friday")  # tokens are kept for a day
    generation, desired = store.set_desired(change("stopped", "friday", given=old))
    assert (generation, desired.generation, desired.running) == (old, new, True)


def test_a_command_that_redis_lost_keeps_the_generation_it_was_sent_with(
    store: DesiredStore, redis_server: RedisServer
) -> None:
    store.set_desired(change(host="one"))
    given, _ = store.set_desired(change("stopped", "t2"))
    redis_server.forget()
    generation, desired = store.set_desired(change("stopped", "t2", given=given))
    assert (generation, desired.state) == (given, "stopped")
    # A forged generation in the far future is ignored.
    assert store.set_desired(change(token="t3", given=given + 10**12))[0] < given + 10**9


def test_later_commands_do_not_change_when_a_host_got_the_account(
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


def test_a_stop_is_queued_as_urgent_for_the_accounts_host(store: DesiredStore) -> None:
    assert store.next_urgent_stop("h1", 1) is None
    store.set_desired(change(host="h1"))
    store.set_desired(change("stopped", "t2", timeout=2.5))
    urgent_stop = store.next_urgent_stop("h1", 1)
    assert urgent_stop is not None
    assert (urgent_stop.account_id, urgent_stop.token) == ("a", "t2")
    desired = store.read("a")
    assert desired is not None
    assert desired.timeout == 2.5


def test_a_snapshot_is_read_only_after_a_change(store: DesiredStore) -> None:
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
def test_a_malformed_record_is_reported_and_the_next_command_replaces_it(
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


def test_a_state_survives_json() -> None:
    desired = DesiredState(account_id="a", state="stopped", generation=7, restart=3, host="h", by="x", at=9)
    assert DesiredState.from_json("a", desired.to_json()) == desired
    assert json.loads(desired.to_json())["generation"] == 7


def test_tidy_deletes_only_old_accounts_that_no_host_ever_had(
    store: DesiredStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for account_id in ("mistyped", "later"):
        generation, _ = store.set_desired(change(account_id=account_id, token=f"t-{account_id}"))
        store.withdraw(account_id, generation)
    store.set_desired(change(host="h1", account_id="runs", token="t2"))
    store.set_desired(change("stopped", account_id="runs", token="t3"))
    assert store.tidied_seconds_ago() is None
    assert store.tidy() == 0
    monkeypatch.setattr(desired_store, "_REFUSED_KEPT_MS", -1000)
    snapshot = store.snapshot

    def and_then(known_version: int | None = None) -> Any:
        found = snapshot(known_version)
        store.set_desired(change(account_id="later", token="t4"))  # a command arrives at this moment
        return found

    monkeypatch.setattr(store, "snapshot", and_then)
    assert store.tidy() == 1
    assert set(store.read_many(["mistyped", "later", "runs"])) == {"later", "runs"}
    assert (store.tidied_seconds_ago() or 0.0) < 60


def test_an_unreachable_redis_raises_one_kind_of_error(
    store: DesiredStore, redis_server: RedisServer
) -> None:
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


def test_a_mode_survives_starts_and_stops_and_changes_no_generation(store: DesiredStore) -> None:
    generation, _ = store.set_desired(change(host="h1"))
    paused = set_mode(store, TradingMode.PAUSED, "p1")
    assert paused is not None
    assert (paused.mode, paused.mode_by, paused.generation) == ("paused", "me@here", generation)
    for number, state in enumerate(("stopped", "running"), 2):
        assert store.set_desired(change(state, f"t{number}"))[1].mode == "paused"
    moved = store.reassign(store.read("a") or paused, "h2")
    assert moved is not None
    assert moved.mode == "paused"


def test_a_refused_start_is_withdrawn_although_a_mode_was_set_meanwhile(store: DesiredStore) -> None:
    generation, _ = store.set_desired(change())
    set_mode(store, TradingMode.PAUSED, "p1")
    store.withdraw("a", generation)
    now = store.read("a")
    assert now is not None
    assert (now.state, now.mode) == ("stopped", "paused")


def test_a_mode_command_delivered_twice_acts_once(store: DesiredStore) -> None:
    """A pause that is delivered again must not undo a later resume."""
    store.set_desired(change())
    set_mode(store, TradingMode.PAUSED, "p1")
    set_mode(store, TradingMode.NORMAL, "p2")
    again = set_mode(store, TradingMode.PAUSED, "p1")
    assert again is not None
    assert again.mode == "normal"


def test_a_mode_of_an_account_without_desired_state_is_not_stored(store: DesiredStore) -> None:
    assert set_mode(store, TradingMode.PAUSED, "p1") is None
    assert store.read("a") is None


def test_restore_merges_the_newest_mode_and_the_newest_generation(
    store: DesiredStore,
) -> None:
    """The agent of a restarted Redis restores the mode, even if it remembers an older start."""
    store.set_desired(change(host="h1"))
    paused = set_mode(store, TradingMode.PAUSED, "p1")
    assert paused is not None
    store._client.delete(DESIRED_KEY)
    later, _ = store.set_desired(change("running", "t2", host="h1"))
    assert store.restore(paused)
    now = store.read("a")
    assert now is not None
    assert (now.mode, now.generation) == ("paused", later)
    assert not store.restore(paused), "Redis has it now"


def test_a_refused_mode_is_withdrawn_unless_a_later_command_changed_it(store: DesiredStore) -> None:
    store.set_desired(change())
    paused = set_mode(store, TradingMode.PAUSED, "p1")
    assert paused is not None
    store.withdraw_mode(paused, TradingMode.NORMAL)
    assert (store.read("a") or paused).mode == "normal"
    again = set_mode(store, TradingMode.PAUSED, "p2")
    store.withdraw_mode(paused, TradingMode.NORMAL)
    assert again is not None
    assert (store.read("a") or paused).mode == "paused"


def test_forgetting_an_account_removes_its_pause(store: DesiredStore) -> None:
    _, stopped = store.set_desired(change("stopped", "t1", host="h1"))
    set_mode(store, TradingMode.PAUSED, "p1")
    assert store.forget_account("a", stopped.generation, "h1", "me")
    assert (store.read("a") or stopped).mode == "normal"


def test_a_mode_of_a_later_version_is_read_as_paused() -> None:
    """A mode that this version does not know must not trade."""
    found = DesiredState.from_json(
        "a", '{"state": "running", "generation": 1, "mode": "halted", "mode_at": 5}'
    )
    assert found is not None
    assert found.mode == "paused"
