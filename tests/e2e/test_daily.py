"""A fleet's daily use by the command line."""

import json

import pytest
import redis
from support.fleet import SIGKILL, Fleet
from support.waiting import eventually

from manager.fleet.desired_store import DesiredStore

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A, B, C = "account-001", "account-002", "account-003"


def test_a_stop_of_a_stopped_account_succeeds_and_an_unknown_account_is_an_error(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    fleet.run_json("start", A)
    assert fleet.run("stop", A).stdout == f"{A} stopped\n"
    again = fleet.run("stop", A, B)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == f"{A}: already stopped\n{B}: already stopped\n"
    assert fleet.run_json("stop", A) == {"account_id": A, "stopped": True, "already_stopped": True}
    unknown = fleet.run("stop", "acount-001")
    assert unknown.returncode == 1
    assert f"did you mean {A}" in unknown.stderr


def test_an_account_whose_file_is_gone_is_named_and_can_be_forgotten(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    fleet.add_account(C, 5003, enabled=False)
    fleet.run_json("start", A)
    (fleet.config_dir / "accounts" / f"{A}.yaml").unlink()

    listed = fleet.run("ps", "-a").stdout
    reported = {line.split()[0]: line for line in listed.splitlines()[1:]}
    assert "its account file is missing" in reported[A]
    assert "running" in reported[A]
    assert reported[B].split()[1:3] == ["never", "started"]
    assert reported[C].split()[1] == "disabled"
    assert f"{A}: its account file is missing" in fleet.run("doctor").stdout
    refused = fleet.run("forget", A)
    assert refused.returncode == 1
    assert "has a worker" in refused.stderr
    assert fleet.run("stop", A).returncode == 0
    before = DesiredStore(fleet.redis_url).read(A)
    assert before is not None

    assert fleet.run("forget", A).returncode == 0

    eventually(lambda: fleet.store.get_worker(A) is None, what="the record is gone")
    fleet.await_ticks(3)
    assert fleet.store.get_worker(A) is None
    after = DesiredStore(fleet.redis_url).read(A)
    assert after is not None
    assert (after.state, after.generation > before.generation) == ("stopped", True)
    entries = [json.loads(line) for line in fleet.run("audit", "--json").stdout.splitlines()]
    assert ("forget", A, "ok") in [(one["what"], one["account_id"], one["outcome"]) for one in entries]
    # The saved state of an old host has a lower generation, so it is not restored.
    assert not DesiredStore(fleet.redis_url).restore(before)
    fleet.add_account(A, 5001)
    assert fleet.run("start", A).returncode == 0


def test_a_stop_for_a_silent_host_has_an_outcome_at_once_and_another_when_it_happened(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    fleet.run_json("start", A)
    fleet.end_agent(SIGKILL)
    eventually(lambda: not any(host.live for host in fleet.store.hosts()), within=15, what="it is silent")

    assert fleet.run("stop", A).returncode == 1

    def outcomes() -> list[str]:
        entries = [json.loads(line) for line in fleet.run("audit", "--json").stdout.splitlines()]
        return [one["outcome"] for one in entries if (one["what"], one["stage"]) == ("stop", "done")]

    assert outcomes() == ["pending"]
    fleet.start_agent()
    eventually(lambda: outcomes() == ["pending", "ok"], within=20, what="the host says that it is done")


def test_a_group_stops_while_the_file_of_another_account_is_gone(fleet: Fleet) -> None:
    fleet.add_account(A, 5001, groups=["fx"])
    fleet.add_account(B, 5002, groups=["metals"])
    fleet.run_json("start-all")
    (fleet.config_dir / "accounts" / f"{A}.yaml").unlink()

    stopped = fleet.run("stop", "--group", "metals")

    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert (fleet.status(A), fleet.status(B)) == ("running", "stopped")
    # The group in the file at its start still selects it.
    assert fleet.run("stop", "--group", "fx").returncode in (0, 1)
    assert fleet.status(A) == "stopped"


def test_who_waits_while_redis_cannot_be_trusted_is_reported_for_how_long(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    marker = redis.Redis.from_url(fleet.redis_url)
    marker.delete("manager:fleet")  # as in a Redis that has lost its data

    one = fleet.run("start", A)

    assert (one.returncode, one.stderr.count("starts wait ")) == (0, 1)
    assert " s more: Redis was restarted or has lost data" in one.stderr
    marker.delete("manager:fleet")
    marker.close()

    many = fleet.run("start-all")

    assert many.returncode == 0
    (line,) = many.stderr.splitlines()
    assert line.startswith("starts wait ")
    assert many.stdout.splitlines()[-1] == "1 started, 1 already running"
