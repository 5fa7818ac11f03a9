"""Payloads of other versions, because hosts are upgraded one at a time.

Payloads of version 0.1 are read, and fields of newer versions are ignored. A running version 0.1 wrote the
files below tests/fixtures/payloads/0.1.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from support.servers import RedisServer

import manager
from manager.client.commands import Command, refuse_incompatible_hosts, refuse_unknown_commands
from manager.errors import InvalidPayloadError
from manager.fleet import FleetStore
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DESIRED_KEY, VERSION_KEY, DesiredStore
from manager.fleet.hosts import HostState
from manager.fleet.keys import HOSTS_KEY, agent_key, beats_key, workers_key
from manager.fleet.leases import LeaseStore, lease_key
from manager.host.workers.records import WorkerRecord
from manager.models import ValidationResult, WorkerInfo
from manager.placement.engine import FleetView, HostFacts, Needs
from manager.pool.commands import PAUSE, START
from manager.states import WorkerLifecycleStatus
from manager.versions import at_least, work_together

OLD = Path(__file__).resolve().parents[1] / "fixtures" / "payloads" / "0.1"


def old(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((OLD / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("more", [{}, {"colour": "red", "nested": {"of": ["a", "newer", "version"]}}])
def test_answers_of_an_older_and_a_newer_host_are_read(more: dict[str, Any]) -> None:
    for name in ("worker_info", "task_start_answer"):
        info = WorkerInfo.from_dict({**old(name), **more})
        assert info.status is WorkerLifecycleStatus.RUNNING
        assert info.metadata["host"] == "test-host"
        assert (info.groups, info.labels) == ((), {})
    assert ValidationResult.from_dict({**old("validation_result"), **more}).valid


def test_a_worker_that_the_older_version_started_is_found_by_its_record() -> None:
    record = WorkerRecord.from_json((OLD / "worker_record.json").read_text())
    assert record.account_id == "account-001"
    assert record.claims == ("paper:Paper-1:5001",)
    assert (record.groups, record.labels) == ((), {})


@pytest.mark.parametrize("more", [{}, {"colour": "red"}])
def test_a_fleet_of_the_older_version_is_read_from_redis(
    redis_server: RedisServer, more: dict[str, Any]
) -> None:
    with redis_server.client() as client:
        seconds, micros = client.time()
        stamp = f"{seconds}.{micros:06d} "
        client.sadd(HOSTS_KEY, "test-host")
        client.set(agent_key("test-host"), stamp + json.dumps({**old("agent_word"), **more}))
        client.hset(workers_key("test-host"), "account-001", json.dumps({**old("worker_info"), **more}))
        client.hset(beats_key("test-host"), "account-001", stamp + json.dumps({**old("heartbeat"), **more}))
        client.hset(DESIRED_KEY, "account-001", json.dumps({**old("desired"), **more}))
        client.set(VERSION_KEY, 1)
        client.hset(lease_key("paper:Paper-1:5001"), mapping=old("lease"))
        client.xadd("manager:events", old("event"))
    store, desired = FleetStore(redis_server.url), DesiredStore(redis_server.url)
    (host,) = store.hosts()
    assert (host.state, host.draining, host.clock_skew_seconds) == ("live", False, None)
    assert FleetView([host.facts]).place(Needs(account_id="new")).host == "test-host"
    (info,) = store.list_workers()
    assert info.status is WorkerLifecycleStatus.RUNNING
    wanted = desired.read("account-001")
    assert wanted is not None
    assert wanted.placement_needs == Needs(account_id="account-001")
    assert LeaseStore(redis_server.url).holders()[0].worker_id == info.worker_id
    assert store.events()[0].account_id == "account-001"
    # A command of this version: an older agent reads the record by name, so all of its names must be there.
    change = DesiredStateRequest(account_id="account-001", state="stopped", token="t", by="me", why="stop")
    assert desired.set_desired(change)[1].generation > wanted.generation
    with redis_server.client() as client:
        raw = client.hget(DESIRED_KEY, "account-001")
        assert isinstance(raw, bytes)
        assert set(old("desired")) <= set(json.loads(raw))


def test_an_answer_has_a_version_and_the_error_of_an_unreadable_one_names_both() -> None:
    info = WorkerInfo(worker_id="w", account_id="a", status=WorkerLifecycleStatus.RUNNING)
    assert info.to_wire() == {**info.to_dict(), "version": manager.__version__}
    assert WorkerInfo.from_dict(info.to_wire()) == info
    nonsense: tuple[object, ...] = (
        {**info.to_dict(), "version": "0.9.0", "status": "dancing"},
        None,
        [],
        "text",
    )
    for wrong in nonsense:
        with pytest.raises(InvalidPayloadError) as raised:
            WorkerInfo.from_dict(wrong)
        if isinstance(wrong, dict):
            assert f"of version 0.9.0 that version {manager.__version__} cannot read: status" in str(
                raised.value
            )


def test_a_host_of_an_incompatible_version_gets_no_start() -> None:
    ours = HostFacts(name="ours")
    theirs = HostState("theirs", True, 0.1, {"version": "0.9.0"}).facts
    silent = HostState("silent", False, None, {}).facts
    placement = FleetView([theirs]).place(Needs(account_id="a"))
    assert placement.host is None
    assert "version 0.9.0 and version" in placement.explain()
    command = Command(START, "a")
    moved = Command(START, "b", why="move", host="theirs")
    places = {"a": ("theirs", True)}
    ready, refused = refuse_incompatible_hosts([command, moved], places, [ours, theirs])
    assert (ready, set(refused)) == ([], {"a", "b"})
    assert "host theirs and this manager do not work together: version 0.9.0" in str(refused["a"])
    assert refuse_incompatible_hosts([command], {}, [ours, theirs]) == ([command], {})
    assert set(refuse_incompatible_hosts([command], {}, [theirs, silent])[1]) == {"a"}
    assert refuse_incompatible_hosts([command], {}, [silent]) == ([command], {})


def test_a_command_that_a_host_does_not_know_is_neither_sent_nor_written() -> None:
    """A host of 0.2 would continue to trade although the account is shown as paused."""
    old = HostState("old", True, 0.1, {"version": "0.2.0"})
    new = HostState("new", True, 0.1, {"version": "0.3.0", "commands": ["start", "pause"]})
    lost = HostState("lost", False, 60.0, {"version": "0.2.0"})
    places = {"a": ("old", True), "b": ("new", True), "c": ("lost", True)}
    commands = [Command(PAUSE, account_id) for account_id in ("a", "b", "c", "d")]
    ready, refused = refuse_unknown_commands(commands, places, [old, new, lost])
    assert [one.account_id for one in ready] == ["b", "d"]
    assert set(refused) == {"a", "c"}, "a silent host of 0.2 would ignore it when it is back"
    assert "host old runs version 0.2.0, which does not know pause" in str(refused["a"])


def test_versions_that_work_together() -> None:
    assert work_together("0.1.0", "0.2.0")
    assert work_together("0.3.1", "0.2.9")
    assert not work_together("0.1.0", "0.3.0")
    assert not work_together("1.2.0", "0.2.0")
    assert not work_together(None, "0.2.0")
    assert at_least(manager.__version__, "0.2")
    assert not at_least("0.1.9", "0.2")
    assert not at_least(None, "0.2")
