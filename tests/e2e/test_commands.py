"""Commands for one account, with a real Redis, host agent, venue and worker."""

import pytest
from support.fleet import SIGKILL, Fleet
from support.waiting import eventually

pytestmark = pytest.mark.e2e


def test_start_show_stop(fleet: Fleet) -> None:
    fleet.add_account("account-001", 5001)

    started = fleet.run_json("start", "account-001")
    assert started["status"] == "running"
    assert started["metadata"]["health"] == "healthy"
    assert started["metadata"]["host"] == fleet.host
    assert started["metadata"]["gateway"] == "paper"
    assert started["metadata"]["balance"] == "10000.00"
    assert {"pid", "version", "config_version", "equity", "open_positions"} <= set(started["metadata"])

    listed = fleet.run_json("ps")
    assert [(w["account_id"], w["status"]) for w in listed] == [("account-001", "running")]
    assert fleet.run_json("info", "account-001")["worker_id"] == started["worker_id"]

    again = fleet.run_json("start", "account-001")
    assert again["metadata"]["already_running"] is True
    assert again["worker_id"] == started["worker_id"]

    assert fleet.run_json("stop", "account-001") == {"account_id": "account-001", "stopped": True}
    assert fleet.status("account-001") == "stopped"
    assert not fleet.workers()
    twice = fleet.run("stop", "account-001")
    assert (twice.returncode, twice.stdout) == (0, "account-001: already stopped\n")


def test_restart_uses_the_current_configuration(fleet: Fleet) -> None:
    fleet.add_account("account-001", 5001)
    before = fleet.run_json("start", "account-001")
    fleet.add_account("account-001", 5001, currencies=[{"symbol": "GBPUSD"}])

    after = fleet.run_json("restart", "account-001")

    assert after["status"] == "running"
    assert after["worker_id"] != before["worker_id"]
    assert after["metadata"]["config_version"] != before["metadata"]["config_version"]
    assert len(fleet.workers()) == 1


def test_a_restart_with_a_broken_file_stops_nothing(fleet: Fleet) -> None:
    fleet.add_account("account-001", 5001)
    before = fleet.run_json("start", "account-001")
    fleet.add_account("account-001", 5001, currencies=[])

    refused = fleet.run("restart", "account-001")

    assert refused.returncode == 1
    assert "invalid" in refused.stderr
    assert fleet.run_json("info", "account-001")["worker_id"] == before["worker_id"]
    assert fleet.status("account-001") == "running"


@pytest.mark.long
def test_a_worker_that_is_killed_is_failed_at_once_with_the_signal(fleet: Fleet) -> None:
    fleet.add_account("account-001", 5001, recovery={"max_restarts": 0})
    fleet.run_json("start", "account-001")
    fleet.workers()["account-001"].signal(SIGKILL)

    eventually(lambda: fleet.status("account-001") == "failed", within=2, what="the death is recorded")

    info = fleet.run_json("info", "account-001")
    assert "SIGKILL" in info["error"]
    assert info["metadata"]["exit_code"] == -9
    assert not fleet.workers()
    assert fleet.run_json("start", "account-001")["status"] == "running"


def test_accounts_that_cannot_start_report_the_reason_and_leave_nothing(fleet: Fleet) -> None:
    fleet.add_account("disabled", 5001, enabled=False)
    fleet.add_account("invalid", 5002, currencies=[])

    for account_id, words in {
        "disabled": "enabled: true",
        "invalid": "currencies",
        "nobody": "nobody",
        "../../etc/passwd": "account id",
    }.items():
        done = fleet.run("start", account_id)
        assert done.returncode == 1, account_id
        assert words in done.stderr, done.stderr
        assert "Traceback" not in done.stderr

    assert fleet.store.list_workers() == []
    assert not fleet.workers()


@pytest.mark.long
def test_wrong_password_is_refused_by_the_venue_and_reported(fleet: Fleet) -> None:
    fleet.add_account("account-001", 5001)
    fleet.run_json("start", "account-001")
    fleet.run_json("stop", "account-001")
    (fleet.config_dir / "secrets" / "other").write_text("another-password-entirely")
    (fleet.config_dir / "secrets" / "other").chmod(0o600)
    fleet.add_account("account-001", 5001, password="file:secrets/other")

    answer = fleet.run_json("start", "account-001")

    assert answer["error"]["code"] == "authentication_failed"
    assert answer["error"]["retryable"] is False
    assert "another-password-entirely" not in str(answer)
    assert fleet.status("account-001") == "failed"
    assert not fleet.workers()


def test_commands_without_a_host_agent_report_it_at_once(bare_fleet: Fleet) -> None:
    bare_fleet.add_account("account-001", 5001)
    done = bare_fleet.run("start", "account-001", timeout=10)
    assert done.returncode == 1
    assert "manager up" in done.stderr


@pytest.mark.long
def test_commands_without_redis_report_it_at_once(bare_fleet: Fleet) -> None:
    bare_fleet.redis.stop()
    for command in (("ps",), ("start", "account-001"), ("doctor",), ("events",)):
        done = bare_fleet.run(*command, timeout=20)
        assert done.returncode == 1, command
        assert "Redis" in done.stderr + done.stdout
        assert "Traceback" not in done.stderr
    bare_fleet.redis.restart()


def test_a_refused_start_tells_everything_that_is_wrong(fleet: Fleet) -> None:
    fleet.add_account("account-001", 5001, tiemout=5, default_risk={"max_positions": 0})
    refused = fleet.run("start", "account-001")
    assert refused.returncode == 1
    assert "tiemout: unknown key; did you mean 'timeout'?" in refused.stderr
    assert "default_risk.max_positions: 0 is below 1" in refused.stderr
