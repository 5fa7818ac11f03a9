"""Changed account files reach running workers, by the command line."""

import json
import time
from decimal import Decimal
from typing import Any

import pytest
from pydantic import SecretStr
from support.fleet import PASSWORD, SIGKILL, Fleet
from support.waiting import eventually

from manager.gateways.base import Side
from manager.gateways.options import GatewayOptions
from manager.gateways.paper.gateway import PaperGateway

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A, B = "account-001", "account-002"


def config_state(fleet: Fleet) -> dict[str, Any]:
    """Return how the account differs from its file; empty if it does not."""
    info = fleet.store.get_worker(A)
    assert info is not None
    return info.placement.config or {}


def running_version(fleet: Fleet) -> str | None:
    info = fleet.store.get_worker(A)
    return None if info is None else info.placement.config_version


def events(fleet: Fleet, pattern: str) -> list[dict[str, Any]]:
    lines = fleet.run("events", "--json", "--type", pattern).stdout.splitlines()
    return [entry for line in lines if "type" in (entry := json.loads(line))]


def test_a_risk_limit_changes_in_the_running_session(fleet: Fleet) -> None:
    fleet.add_account(A, 5001)
    fleet.run_json("start", A)
    before, version, venue = fleet.workers()[A], running_version(fleet), fleet.stats()
    fleet.add_account(A, 5001, default_risk={"risk_percent": 0.25}, groups=["desk"])
    eventually(lambda: running_version(fleet) != version, within=15, what="the change is applied")
    assert fleet.workers()[A] == before, "the same process"
    assert fleet.stats() == venue, "the same session"
    (event,) = events(fleet, "config.applied")
    assert event["by"] == "account file"
    assert event["data"]["fields"] == [
        "default_risk.risk_percent",
        "currencies.EURUSD.risk.risk_percent",
        "groups",
    ]
    assert event["data"]["classes"] == ["agent", "live"]
    info = fleet.store.get_worker(A)
    assert info is not None
    assert info.groups == ("desk",)
    assert config_state(fleet) == {}
    # A later agent knows what runs.
    fleet.end_agent(SIGKILL)
    fleet.start_agent()
    fleet.await_ticks(6)
    assert len(events(fleet, "config.applied")) == 1
    assert fleet.workers()[A] == before


def test_an_identity_waits_for_a_restart_and_the_rest_is_applied(fleet: Fleet) -> None:
    fleet.add_account(A, 5001, reload={"restart": "manual"})
    fleet.run_json("start", A)
    before = fleet.workers()[A]
    fleet.add_account(A, 5009, groups=["desk"], reload={"restart": "manual"})
    state = eventually(lambda: config_state(fleet), within=15, what="the change is pending")
    assert state["state"] == "pending"
    assert state["changes"] == [{"key": "login", "class": "restart", "old": 5001, "new": 5009}]
    assert f"`manager restart {A}`" in state["text"]
    assert fleet.workers()[A] == before
    assert [one["data"]["fields"] for one in events(fleet, "config.*")] == [["groups"], ["login"]]
    reported = fleet.run("reload")
    assert reported.returncode == 0
    assert "login" in reported.stdout and "restart" in reported.stdout
    assert fleet.run("restart", A).returncode == 0
    eventually(lambda: not config_state(fleet), within=15)
    assert "no account" in fleet.run("reload").stdout


def with_position(fleet: Fleet, login: int) -> None:
    """Open a position of an account before its worker starts."""
    with fleet.admin() as admin:
        admin.create_account("Paper-1", login, PASSWORD)
    gateway = PaperGateway(
        GatewayOptions(
            account_id=A,
            worker_id="w-test",
            login=login,
            server="Paper-1",
            password=SecretStr(PASSWORD),
            venue_address=f"unix:{fleet.venue_socket}",
            private_dir=fleet.paths.root / "private",
        )
    )
    gateway.connect(time.monotonic() + 5)
    gateway.submit_order("o-1", symbol="EURUSD", side=Side.BUY, volume=Decimal("0.01"))
    gateway.disconnect()


def test_a_flat_account_restarts_for_its_file_and_an_open_position_delays_that(fleet: Fleet) -> None:
    with_position(fleet, 5001)
    fleet.add_account(A, 5001)
    fleet.run_json("start", A)
    before = fleet.workers()[A]
    fleet.add_account(A, 5009)
    state = eventually(lambda: config_state(fleet), within=15, what="the change is pending")
    assert state["text"] == "login: it restarts when it has no open position"
    fleet.await_ticks(3)
    assert fleet.workers()[A] == before
    fleet.add_account(A, 5009, reload={"deadline": "1s"})
    eventually(lambda: fleet.workers().get(A) not in (None, before), within=20, what="the deadline passes")
    eventually(lambda: not config_state(fleet) and fleet.status(A) == "running", within=15)
    restarted = fleet.workers()[A]
    fleet.add_account(A, 5010)  # flat
    eventually(lambda: fleet.workers().get(A) not in (None, restarted), within=20, what="it restarts")
    eventually(lambda: not config_state(fleet) and fleet.status(A) == "running", within=15)
    assert [one["login"] for one in fleet.stats()["live"]] == ["5010"]
    assert fleet.stats()["overlaps"] == 0


def test_a_restart_that_fails_returns_to_the_earlier_configuration(fleet: Fleet) -> None:
    fleet.add_account(A, 5001)
    fleet.run_json("start", A)
    with fleet.admin() as admin:
        admin.create_account("Paper-1", 5009, "another-password")
    fleet.add_account(A, 5009)
    eventually(lambda: config_state(fleet).get("state") == "rolled_back", within=20, what="it returns")
    state = config_state(fleet)
    assert "its changed file failed" in state["text"]
    assert fleet.status(A) == "running"
    assert [one["login"] for one in fleet.stats()["live"]] == ["5001"]
    assert "rolled_back" in fleet.run("ps", "--json").stdout
    before = fleet.workers()[A]
    # A later agent does not try it again either, and a worker that dies starts as before.
    fleet.end_agent(SIGKILL)
    fleet.start_agent()
    fleet.await_ticks(4)
    assert fleet.workers()[A] == before
    before.kill()
    eventually(lambda: fleet.workers().get(A) not in (None, before), within=20, what="it recovers")
    eventually(lambda: fleet.status(A) == "running", within=15)
    assert [one["login"] for one in fleet.stats()["live"]] == ["5001"]
    assert events(fleet, "config.rolled_back")
    fleet.add_account(A, 5010)
    eventually(lambda: [one["login"] for one in fleet.stats()["live"]] == ["5010"], within=20)
    eventually(lambda: not config_state(fleet), within=15)
    assert fleet.stats()["overlaps"] == 0


def risks(fleet: Fleet) -> Any:
    """Return the risk limits that the host keeps of the running configuration."""
    kept = json.loads((fleet.paths.running_dir / f"{A}.json").read_text())
    return kept["config"]["default_risk"]


def test_a_real_account_holds_what_raises_its_exposure(fleet: Fleet) -> None:
    fleet.add_account(A, 5001, server="Paper-Real-1", default_risk={"risk_percent": 1, "max_positions": 5})
    fleet.run_json("start", A)
    before = fleet.workers()[A]
    eventually(lambda: fleet.run_json("info", A)["metadata"].get("environment") == "real", within=10)
    edit = {"server": "Paper-Real-1", "default_risk": {"risk_percent": 5, "max_positions": 2}}
    fleet.add_account(A, 5001, **edit)
    eventually(lambda: config_state(fleet).get("state") == "held", within=15, what="the change is held")
    assert (risks(fleet)["risk_percent"], risks(fleet)["max_positions"]) == (1, 2)
    assert f"`manager approve {A}` applies it" in fleet.run("reload", A).stdout
    assert "waits" in fleet.run("approve", B).stderr, "nothing waits of another account"
    # After a crash it trades with the approved limits.
    crashed = fleet.store.get_worker(A)
    assert crashed is not None
    before.kill()

    def held_again() -> bool:
        info = fleet.store.get_worker(A)
        other = info is not None and info.worker_id != crashed.worker_id
        return other and config_state(fleet).get("state") == "held"

    eventually(held_again, within=30, what="it recovers, and is held again")
    assert risks(fleet)["risk_percent"] == 1
    stale = fleet.run("approve", A, "--to", "000000000000")
    assert stale.returncode == 1
    assert "look at it again" in stale.stderr
    approved = fleet.run("approve", A)
    assert approved.returncode == 0, approved.stderr
    eventually(lambda: risks(fleet)["risk_percent"] == 5, within=15, what="it is applied")
    eventually(lambda: not config_state(fleet), within=15)
    assert next(iter(events(fleet, "config.held")))["data"]["fields"] == [
        "default_risk.risk_percent",
        "currencies.EURUSD.risk.risk_percent",
    ]
    assert "approve" in fleet.run("audit").stdout
    # A new login waits too, and with it the restart that would use it.
    fleet.add_account(A, 5009, **edit)
    eventually(lambda: config_state(fleet).get("state") == "held", within=15, what="the login is held")
    worker = fleet.workers()[A]
    fleet.await_ticks(3)
    assert fleet.workers()[A] == worker
    assert fleet.run("approve", A).returncode == 0
    eventually(lambda: [one["login"] for one in fleet.stats()["live"]] == ["5009"], within=20)
    eventually(lambda: not config_state(fleet), within=15)


def test_files_that_change_together_become_one_rollout(fleet: Fleet) -> None:
    for account_id, login in ((A, 5001), (B, 5002)):
        fleet.add_account(account_id, login)
        fleet.run_json("start", account_id)
    before = fleet.workers()
    fleet.await_ticks(5)  # the host knows both files
    (fleet.config_dir / "defaults.yaml").write_text("strategy: {timeframe: H1}")
    state = eventually(lambda: config_state(fleet), within=15, what="the change is pending")
    assert "a rollout restarts in steps" in state["text"]
    eventually(lambda: fleet.run_json("rollout", "list"), within=30, what="the rollout begins")
    (rollout,) = fleet.run_json("rollout", "list")
    assert (rollout["by"], rollout["aim"], rollout["state"]) == ("account file", "config", "running")
    eventually(lambda: fleet.workers().get(A) not in (None, before[A]), within=20, what="the canary restarts")
    # A later agent begins no second one, and restarts nothing beside it.
    fleet.end_agent(SIGKILL)
    fleet.start_agent()
    assert fleet.run("rollout", "cancel", rollout["id"]).returncode == 0
    eventually(lambda: fleet.status(A) == "running", within=15)
    fleet.await_ticks(8)
    assert fleet.workers()[B] == before[B]
    assert len(fleet.run_json("rollout", "list")) == 1


@pytest.mark.parametrize("content", ["gateway: [", "gateway: paper\nlogin: 5001\nserver: x\nnonsense: 1\n"])
def test_an_invalid_file_changes_nothing_and_is_named(fleet: Fleet, content: str) -> None:
    fleet.add_account(A, 5001)
    fleet.run_json("start", A)
    before = fleet.workers()[A]
    path = fleet.config_dir / "accounts" / f"{A}.yaml"
    good = path.read_text()
    path.write_text(content)
    state = eventually(lambda: config_state(fleet), within=15, what="the file is invalid")
    assert state["state"] == "invalid"
    assert f"accounts/{A}.yaml:" in state["text"]
    assert fleet.workers()[A] == before
    assert "its file is invalid, so it runs as before" in fleet.run("ps").stdout
    path.write_text(good)
    eventually(lambda: not config_state(fleet), within=15, what="the file is valid again")


def test_a_file_that_is_written_slowly_counts_once_it_is_whole(fleet: Fleet) -> None:
    fleet.add_account(A, 5001)
    fleet.run_json("start", A)
    path = fleet.config_dir / "accounts" / f"{A}.yaml"
    whole = json.dumps({**json.loads(path.read_text()), "groups": ["desk"]})
    size = len(whole) // 10 + 1
    with path.open("w") as file:
        for start in range(0, len(whole), size):
            file.write(whole[start : start + size])
            file.flush()
            time.sleep(0.3)
    eventually(lambda: events(fleet, "config.applied"), within=15, what="the change is applied")
    assert events(fleet, "config.invalid") == []


def test_a_directory_that_vanishes_stops_nobody(fleet: Fleet) -> None:
    for account_id, login in ((A, 5001), (B, 5002)):
        fleet.add_account(account_id, login)
        fleet.run_json("start", account_id)
    before = fleet.workers()
    accounts = fleet.config_dir / "accounts"
    accounts.rename(fleet.config_dir / "away")
    fleet.await_ticks(4)
    assert fleet.workers() == before
    (fleet.config_dir / "away").rename(accounts)
    fleet.await_ticks(4)
    assert fleet.workers() == before
    assert events(fleet, "config.*") == []


def test_a_removed_file_stops_its_account_and_starts_it_when_it_is_back(fleet: Fleet) -> None:
    for account_id in fleet.add_accounts(6):
        fleet.run_json("start", account_id)
    fleet.await_ticks(4)
    path = fleet.config_dir / "accounts" / f"{B}.yaml"
    path.rename(fleet.config_dir / "kept")
    eventually(lambda: fleet.status(B) == "stopped", within=50, what="the file is gone for 30 s")
    assert len(fleet.workers()) == 5
    assert "its file was removed" in fleet.run("history", B).stdout
    (fleet.config_dir / "kept").rename(path)
    eventually(lambda: fleet.status(B) == "running", within=20, what="the file is back")


def test_an_account_is_stopped_and_started_by_its_file(fleet: Fleet) -> None:
    fleet.add_account(A, 5001)
    fleet.run_json("start", A)
    fleet.add_account(A, 5001, enabled=False)
    eventually(lambda: fleet.status(A) == "stopped", within=20, what="the file stops it")
    fleet.add_account(A, 5001)
    eventually(lambda: fleet.status(A) == "running", within=20, what="the file starts it")
    assert fleet.run("stop", A).returncode == 0
    fleet.add_account(A, 5001, enabled=False)
    fleet.await_ticks(4)
    fleet.add_account(A, 5001)
    fleet.await_ticks(4)
    assert fleet.status(A) == "stopped", "a command has stopped it: its file starts it not"


def test_a_worker_of_an_agent_that_kept_no_configuration_needs_a_restart(fleet: Fleet) -> None:
    fleet.add_account(A, 5001)
    fleet.run_json("start", A)
    (fleet.paths.running_dir / f"{A}.json").unlink()
    fleet.add_account(A, 5001, groups=["desk"])
    state = eventually(lambda: config_state(fleet), within=15)
    assert "unknown what has changed" in state["text"]
