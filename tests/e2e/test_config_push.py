"""Configuration across hosts: pushed through Redis, checked on the host that would run the account."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import PASSWORD, Fleet
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A = "account-001"


@pytest.fixture
def far(bare_fleet: Fleet, short_dir: Path) -> Iterator[Fleet]:
    """A host that shares no directory with the manager; it has credentials and reads pushed files."""
    found = Fleet(short_dir / "far", bare_fleet.redis, "far")
    bare_fleet.start_venue()
    found.venue_socket = bare_fleet.venue_socket
    found.extra_environment = {"MANAGER_CONFIG_SOURCE": "fleet"}
    found.start_agent()
    yield found
    found.close()


def test_a_host_reads_the_pushed_files_and_keeps_its_secrets(bare_fleet: Fleet, far: Fleet) -> None:
    desk = bare_fleet
    desk.add_accounts(2)
    assert desk.run("config", "push", "--dry-run").stdout.endswith("dry run: nothing was pushed\n")
    pushed = desk.run("config", "push", "-m", "the first two")
    assert pushed.returncode == 0, pushed.stderr
    assert "+++ accounts/account-001.yaml" in pushed.stdout
    assert "pushed version 1: 2 files" in pushed.stdout
    assert desk.run("config", "push").stdout.startswith("nothing to push")
    eventually(
        lambda: [host.data.get("config_version") for host in desk.store.hosts()] == [1],
        what="the host has it",
    )
    reported = desk.run_json("start-all")
    assert sorted(reported["started"]) == ["account-001", "account-002"]
    # The host checks the account: it has the password file, and the manager's machine has none.
    desk.add_account(A, 5001, password="file:secrets/other")
    (desk.config_dir / "secrets" / "other").write_text(PASSWORD)
    assert desk.run("validate", A, "--here").returncode == 0
    assert desk.run("config", "push", "--json").returncode == 0
    eventually(lambda: [host.data.get("config_version") for host in desk.store.hosts()] == [2])
    checked = desk.run_json("validate", A)
    assert checked[0]["host"] == "far"
    assert "secrets/other is missing" in checked[0]["errors"][0]
    assert desk.run_json("config", "rollback", "1")["version"] == 3
    eventually(lambda: [host.data.get("config_version") for host in desk.store.hosts()] == [3])
    assert desk.run("validate", A).returncode == 0
    assert [one["version"] for one in desk.run_json("config", "history")] == [3, 2, 1]
    trail = [json.loads(line) for line in desk.run("audit", "--json").stdout.splitlines()]
    assert [one["what"] for one in trail if one["what"].startswith("config")] == [
        "config push",
        "config push",
        "config rollback",
    ]
    with desk.redis.client() as client:
        for key in client.keys("manager:config*"):
            assert PASSWORD.encode() not in client.dump(key)


def test_validate_names_its_host_and_warns_of_an_unreachable_venue(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    fleet.add_account("away", 5009, venue="tcp:127.0.0.1:1")
    result = fleet.run("validate")
    assert result.returncode == 0, result.stderr
    assert "3 valid, 0 invalid (checked on host test-host)" in result.stdout
    assert "its venue cannot be reached from this host now" in result.stdout
    fleet.add_account("nowhere", 5010, requires="moon")
    assert "test-host: it lacks label moon" in fleet.run("validate", "nowhere").stdout
    assert "(checked on this machine)" in fleet.run("validate", "nowhere", "--here").stdout


def test_a_secret_in_clear_reaches_redis_only_with_a_reason_that_is_kept(bare_fleet: Fleet) -> None:
    desk = bare_fleet
    desk.add_account(A, 5001, environment={"API_SECRET": "an-api-secret"})
    refused = desk.run("config", "push")
    assert refused.returncode == 1
    assert "environment.API_SECRET looks like a secret" in refused.stderr
    assert desk.run("config", "push", "--allow-literals", " ").returncode == 2
    with desk.redis.client() as client:
        assert client.keys("manager:config:*") == []
    pushed = desk.run("config", "push", "--allow-literals", "the demo key of a closed account")
    assert pushed.returncode == 0, pushed.stderr
    assert "1 secret in plain text: accounts/account-001.yaml" in pushed.stderr
    trail = desk.run("audit").stdout
    assert "config push literals" in trail
    assert "the demo key of a closed account" in trail
    shown = desk.run("config", "show", A)
    desk.add_account(A, 5001, environment={"API_SECRET": "another-secret"})
    changes = desk.run("config", "diff")
    assert changes.returncode == 1
    assert "***" in changes.stdout
    for done in (refused, pushed, shown, changes):
        assert "-secret" not in (done.stdout + done.stderr).replace("allow-literals", "")
    assert "an-api-secret" not in trail
