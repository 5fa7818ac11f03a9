"""Three hosts of one fleet: placement by labels, capacity and rules; drain and resume."""

import json
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import SecretStr
from support.fleet import PASSWORD, Fleet, plain_celery
from support.waiting import eventually

from manager.gateways import GatewayOptions
from manager.gateways.base import Side
from manager.gateways.paper.gateway import PaperGateway

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A = "account-001"


@pytest.fixture
def hosts(bare_fleet: Fleet, short_dir: Path) -> Iterator[list[Fleet]]:
    """Empty hosts `test-host` (label london), `two` (london, capacity 3), `three` (label mt5)."""
    two = Fleet(short_dir / "two", bare_fleet.redis, "two", beside=bare_fleet)
    three = Fleet(short_dir / "three", bare_fleet.redis, "three", beside=bare_fleet)
    bare_fleet.extra_environment = {"MANAGER_LABELS": "london"}
    two.extra_environment = {"MANAGER_LABELS": "london,egress_ip=203.0.113.5", "MANAGER_CAPACITY": "3"}
    three.extra_environment = {"MANAGER_LABELS": "mt5,egress_ip=203.0.113.5"}
    bare_fleet.start_venue()
    for one in (bare_fleet, two, three):
        one.spawn_agent()
    for one in (bare_fleet, two, three):
        one.await_agent()
    yield [bare_fleet, two, three]
    two.close()
    three.close()


def places(fleet: Fleet) -> dict[str, str]:
    """Return the host of every running account."""
    return {
        info.account_id: str(info.metadata["host"])
        for info in fleet.store.list_workers()
        if info.status == "running"
    }


def test_labels_capacity_and_rules_decide(hosts: list[Fleet]) -> None:
    fleet = hosts[0]
    for number in range(1, 9):
        fleet.add_account(f"account-{number:03}", 5000 + number, requires=["london"])
    fleet.add_account("terminal", 5050, requires="mt5", server="Paper-2")
    fleet.add_account("shy", 5051, server="Paper-2", avoid_sharing="egress_ip")
    fleet.add_account("nowhere", 5052, requires=["moon"])
    reported = fleet.run_json("start-all")
    assert len(reported["started"]) == 10
    assert reported["failed"] == {
        "nowhere": "nowhere: no host fits (test-host: it lacks label moon; three: it lacks label moon; "
        "two: it lacks label moon)"
    }
    where = places(fleet)
    assert where["terminal"] == "three"
    assert where["shy"] == "test-host"
    counts = {name: list(where.values()).count(name) for name in ("test-host", "two", "three")}
    assert counts["two"] <= 3
    assert counts["three"] == 1
    # Single starts give the same placement, and the error names the rule that rejected each host.
    out = plain_celery(
        fleet,
        """
try:
    app.send_task("tasks.start_worker", args=["nowhere"]).get(timeout=30)
except Exception as error:
    print(type(error).__name__, error)
""",
    )
    assert out.startswith("NoHostFitsError nowhere: no host fits (")
    assert fleet.run("start", "terminal").returncode == 0
    explained = fleet.run("place", "nowhere", "--explain")
    assert explained.returncode == 1
    assert "two: rejected: it lacks label moon" in explained.stdout
    assert fleet.run_json("place", "terminal")["host"] == "three"
    # A move cannot break a rule either, and the failed move does not stop the worker.
    moved = fleet.run("move", "terminal", "--to", "two")
    assert moved.returncode == 1
    assert "it lacks label mt5; nothing was done" in moved.stderr
    assert places(fleet)["terminal"] == "three"
    assert fleet.stats()["overlaps"] == 0


def test_hosts_tells_of_every_host(hosts: list[Fleet]) -> None:
    fleet = hosts[0]
    reported = {host["name"]: host for host in fleet.run_json("hosts")}
    assert {name: host["state"] for name, host in reported.items()} == {
        "test-host": "live",
        "two": "live",
        "three": "live",
    }
    assert reported["two"]["capacity"] == 3
    assert reported["two"]["labels"] == {"london": "", "egress_ip": "203.0.113.5"}
    assert abs(reported["two"]["clock_skew_seconds"]) < 1
    hosts[2].end_agent()
    eventually(
        lambda: "lost" in [host.state for host in fleet.store.hosts()], within=10, what="lost within seconds"
    )
    shown = fleet.run("hosts").stdout
    assert "egress_ip=203.0.113.5,london" in shown
    assert fleet.run("forget-host", "two").returncode == 1
    assert fleet.run("forget-host", "three").returncode == 0
    assert [host.name for host in fleet.store.hosts()] == ["test-host", "two"]


def test_a_drained_host_has_no_workers_until_it_is_resumed(hosts: list[Fleet]) -> None:
    fleet, two, three = hosts
    for number in range(1, 7):
        fleet.add_account(f"account-{number:03}", 5000 + number, requires=["london"] if number < 3 else [])
    fleet.run_json("start-all")
    assert set(places(fleet).values()) >= {"test-host"}

    drained = fleet.run("drain", "test-host", "--wait", "--timeout", "40")
    assert drained.returncode == 0, drained.stderr + fleet.log("agent")[-3000:]
    assert "is empty" in drained.stdout
    eventually(lambda: len(places(fleet)) == 6, within=20, what=f"all run on other hosts: {places(fleet)}")
    assert "test-host" not in places(fleet).values()
    fleet.add_account("late", 5060)
    assert fleet.run_json("start", "late")["metadata"]["host"] != "test-host"
    # The drain survives a restart of the agent, and a Redis that has lost all data.
    fleet.end_agent()
    fleet.start_agent()
    fleet.await_ticks()
    assert next(host.state for host in fleet.store.hosts() if host.name == "test-host") == "drained"
    result = two.run("drain", "two", "--wait", "--timeout", "40")
    # Accounts that need label london have no other host.
    assert result.returncode == 1
    assert "account-001: no host fits (" in result.stderr
    assert "it is drained" in result.stderr
    assert fleet.run("resume-host", "test-host").returncode == 0
    eventually(lambda: "two" not in places(fleet).values(), within=20, what="the rest leaves as well")
    assert fleet.stats()["overlaps"] == 0
    assert three.run("drain", "nowhere").returncode == 1


def test_drained_to_stop_workers_come_back_with_the_host(hosts: list[Fleet]) -> None:
    fleet, two, _ = hosts
    fleet.add_account(A, 5001, host="two")
    fleet.run_json("start", A)
    assert fleet.run("drain", "two", "--stop", "--wait").returncode == 0
    assert fleet.status(A) == "stopped"
    two.await_ticks()
    assert not two.workers()
    # It should run, and `ps` warns that it does not.
    eventually(
        lambda: f"1 account should be running but is not: {A}" in fleet.run("ps").stderr,
        within=20,
        what="it is missed",
    )
    result = fleet.run("doctor")
    assert f"warn  drained: 1 account should be running but is not: {A} (on two)" in result.stdout
    assert "run `manager resume-host two` to start them again" in result.stdout
    assert "two is drained" in fleet.run("info", A).stdout
    refused = fleet.run("start", A)
    assert refused.returncode == 1
    assert "it is drained" in refused.stderr
    fleet.run("resume-host", "two")
    eventually(lambda: places(fleet) == {A: "two"}, within=20, what="back on its host")


def test_a_worker_with_positions_leaves_when_flat_or_at_the_deadline(hosts: list[Fleet]) -> None:
    fleet, two, _ = hosts
    fleet.add_account(A, 5001, server="Paper-1", requires=["london"])
    venue = PaperGateway(
        GatewayOptions(
            account_id=A,
            worker_id="a-person",
            login=5001,
            server="Paper-1",
            password=SecretStr(PASSWORD),
            venue_address=f"unix:{fleet.venue_socket}",
            private_dir=fleet.paths.root / "person",
        )
    )
    venue.connect(time.monotonic() + 5)
    venue.submit_order("o", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.10"))
    venue.disconnect()
    fleet.run_json("start", A)
    where = places(fleet)[A]
    eventually(
        lambda: (info := fleet.store.get_worker(A)) is not None and info.metadata.get("open_positions") == 1,
        within=20,
        what="the worker has seen its position",
    )
    result = fleet.run("drain", where, "--when-flat", "--wait", "--timeout", "4")
    assert result.returncode == 1
    assert "1 position open" in result.stderr
    assert places(fleet) == {A: where}
    assert fleet.run("drain", where, "--when-flat", "--deadline", "1", "--wait").returncode == 0
    eventually(lambda: places(fleet).get(A) not in {None, where}, within=20, what="moved at the deadline")
    assert fleet.stats()["overlaps"] == 0
    assert two.stats()["overlaps"] == 0


def test_groups_and_labels_select_and_batches_can_be_left(hosts: list[Fleet]) -> None:
    fleet = hosts[0]
    for number in range(1, 7):
        fleet.add_account(
            f"account-{number:03}",
            5000 + number,
            groups=["fx"] if number < 4 else ["metals"],
            labels={"desk": "london" if number % 2 else "paris"},
        )
    left = fleet.run_json("start", "--group", "fx", "--no-wait")
    assert sorted(left["pending"]) == ["account-001", "account-002", "account-003"]
    done = fleet.run_json("batch", left["batch"][:8], "--wait")
    assert sorted(done["started"]) == ["account-001", "account-002", "account-003"]
    assert fleet.run_json("start", "-l", "desk=london")["already_running"].keys() == {
        "account-001",
        "account-003",
    }
    assert [info["account_id"] for info in fleet.run_json("ps", "--group", "metals")] == ["account-005"]
    assert sorted(fleet.run_json("stop", "-l", "desk=paris")["stopped"]) == ["account-002"]
    assert sorted(fleet.run_json("restart", "--group", "fx")["restarted"]) == ["account-001", "account-003"]
    out = plain_celery(
        fleet,
        """
chosen = {"group": "metals", "labels": {"desk": "paris"}}
result = app.send_task("tasks.start_all_enabled_workers", kwargs=chosen)
print(sorted(result.get(timeout=60)), result.id)
again = app.send_task("tasks.restart_all_workers", kwargs=chosen).get(timeout=60)
print({key: again[key]["metadata"]["outcome"] for key in sorted(again)})
print(app.send_task("tasks.stop_all_workers", kwargs={"group": ["fx", "metals"]}).get(timeout=60))
""",
    )
    assert out.startswith("['account-004', 'account-006'] ")
    assert out.splitlines()[1:] == ["{'account-004': 'restarted', 'account-006': 'restarted'}", "5"]
    batches = fleet.run_json("batch")
    assert out.split()[2] in [one["id"] for one in batches]
    mistyped = fleet.run("start", "--group", "nope")
    assert mistyped.returncode == 1
    assert "no account matches group nope; groups in the account files: fx, metals" in mistyped.stderr
    assert fleet.run("start").returncode == 2
    assert fleet.run("start", A, "--group", "fx").returncode == 2
    # The audit trail has two entries for every command: requested and done.
    trail = [json.loads(line) for line in fleet.run("audit", "--export", "jsonl").stdout.splitlines()]
    asked = {one["command"] for one in trail if one["stage"] == "asked"}
    eventually(
        lambda: (
            asked
            <= {
                json.loads(line)["command"]
                for line in fleet.run("audit", "--export", "jsonl").stdout.splitlines()
                if '"done"' in line
            }
        ),
        what="every command has its outcome in the trail",
    )
    assert {one["what"] for one in trail} >= {"start", "stop", "restart"}
    assert all(one["by"] for one in trail)


def test_a_host_is_drained_under_load(hosts: list[Fleet]) -> None:
    """During a drain, commands continue: no account is lost and none runs twice."""
    fleet = hosts[0]
    ids = fleet.add_accounts(12)
    fleet.run_json("start-all")
    out = plain_celery(
        fleet,
        f"""
import itertools
sent = []
start, stop = "tasks.start_worker", "tasks.stop_worker"
names = itertools.cycle(["tasks.restart_worker", start, stop, start])
for account, name in zip({ids * 4!r}, names):
    sent.append(app.send_task(name, args=[account]))
app.backend.client.set("manager:host:three:drain", '{{"mode": "move", "by": "test"}}')
for one in sent:
    try:
        one.get(timeout=60)
        print("done")
    except Exception as error:
        print(type(error).__name__)
""",
    )
    # Some commands fail because a later one overruled them; every command must have one of the expected
    # results.
    assert len(out.splitlines()) == 48
    assert set(out.split()) <= {"done", "StartCancelledError", "OverruledError", "NoWorkerError"}, out
    eventually(
        lambda: "three" not in places(fleet).values(), within=30, what=f"three is empty: {places(fleet)}"
    )
    assert fleet.run_json("start-all")["failed"] == {}
    eventually(lambda: len(places(fleet)) == 12, within=20, what="all run")
    assert "three" not in places(fleet).values()
    assert fleet.stats()["overlaps"] == 0


def test_a_move_while_it_is_starting_ends_in_one_session_at_the_right_place(hosts: list[Fleet]) -> None:
    fleet = hosts[0]
    fleet.add_account(A, 5001)
    fleet.run_json("start", A)
    fleet.run_json("stop", A)
    with fleet.admin() as admin:
        admin.script_fault("Paper-1", 5001, "slow", count=1, seconds=3)
    starting = fleet.spawn(sys.executable, "-m", "manager.cli", "start", A, log="starting")
    eventually(lambda: fleet.status(A) == "starting", what="it is starting")
    here = str(fleet.store.get_worker(A).metadata["host"])  # type: ignore[union-attr]
    there = "three" if here != "three" else "two"
    moved = fleet.run("move", A, "--to", there)
    assert moved.returncode == 0, moved.stderr
    assert places(fleet) == {A: there}
    assert starting.wait(30) in {0, 1}
    assert fleet.stats()["overlaps"] == 0
    assert len(fleet.stats()["live"]) == 1


def test_accounts_that_avoid_each_other_never_meet_however_they_come(hosts: list[Fleet]) -> None:
    """Ten starts at once through the shared queue; two of the three hosts share an address."""
    fleet = hosts[0]
    for number in range(1, 11):
        rule = "server" if number < 6 else "egress_ip"
        fleet.add_account(f"account-{number:03}", 5000 + number, server="Paper-2", avoid_sharing=rule)
    out = plain_celery(
        fleet,
        """
sent = [app.send_task("tasks.start_worker", args=[f"account-{n:03}"]) for n in range(1, 11)]
for one in sent:
    try:
        print("running", one.get(timeout=60)["metadata"]["host"])
    except Exception as error:
        print(type(error).__name__)
""",
    )
    running = [line.split()[1] for line in out.splitlines() if line.startswith("running")]
    assert running
    assert len(set(running)) == len(running), out
    assert set(out.split()) <= {"running", "NoHostFitsError", "test-host", "two", "three"}, out
    where = places(fleet)
    assert sorted(where.values()) == sorted(running)
    if any(int(account_id[-3:]) >= 6 for account_id, host in where.items() if host in {"two", "three"}):
        assert len({"two", "three"} & set(running)) == 1, "they share an address"
