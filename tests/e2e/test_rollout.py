"""A changed file reaches many accounts in steps, whatever is killed meanwhile."""

import json
import threading
from typing import Any

import pytest
from support.fleet import SIGKILL, Fleet
from support.waiting import eventually

from manager.fleet.runs import RunStore

pytestmark = [pytest.mark.e2e, pytest.mark.long]

QUICK = ("--bake", "2s", "--min-healthy", "2s", "--healthy-deadline", "30s", "--per-host", "9")


def pending(fleet: Fleet) -> int:
    return sum(info.placement.config is not None for info in fleet.store.list_workers())


def states(fleet: Fleet, rollout_id: str) -> dict[str, str]:
    found = fleet.run("rollout", "show", rollout_id, "--json")
    members: dict[str, Any] = json.loads(found.stdout)["members"]
    return {key: one["state"] for key, one in members.items()}


class Sampler:
    """Counts sessions of the venue, again and again."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._end = threading.Event()
        self.least = 1_000_000
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(0.05):
            self.least = min(self.least, self._fleet.stats()["sessions"])


def test_a_change_of_the_defaults_restarts_every_account_once_in_steps(fleet: Fleet) -> None:
    accounts = fleet.add_accounts(8)
    assert fleet.run("start-all").returncode == 0
    fleet.await_ticks(4)
    (fleet.config_dir / "defaults.yaml").write_text("strategy: {timeframe: H1}\nreload: {restart: manual}")
    eventually(lambda: pending(fleet) == 8, within=20, what="the hosts notice it")
    planned = fleet.run("rollout", "start", "--to", "config", "--dry-run", *QUICK)
    assert "account-001 (canary)" in planned.stdout
    assert fleet.run("rollout", "list").stdout.startswith("no rollout yet")
    sampler = Sampler(fleet)
    options = ("--to", "config", "--canary", "2", "--max-unavailable", "2", *QUICK)
    started = fleet.run_json("rollout", "start", *options)
    rollout_id = started["rollout"]["id"]
    refused = fleet.run("rollout", "start", "account-008", "--to", "config")
    assert refused.returncode == 1
    assert f"belongs to rollout {rollout_id}" in refused.stderr
    eventually(lambda: "done" in states(fleet, rollout_id).values(), within=60, what="a canary is done")
    # A person stops an account, and the only host agent dies, in the middle.
    assert fleet.run("stop", accounts[-1]).returncode == 0
    fleet.end_agent(SIGKILL)
    fleet.start_agent()
    eventually(lambda: fleet.store.get_worker(accounts[0]) is not None, within=10)
    followed = fleet.run("rollout", "show", rollout_id, "--watch", timeout=120)
    assert followed.returncode == 0, followed.stdout
    sampler.close()
    assert states(fleet, rollout_id) == {
        **dict.fromkeys(accounts[:-1], "done"),
        accounts[-1]: "skipped",
    }
    assert fleet.run("reload").stdout.startswith("no account differs")
    assert sampler.least >= 8 - 2 - 1, "two by the rollout, one by the person"
    assert fleet.stats()["overlaps"] == 0
    runs = RunStore(fleet.redis_url)
    for account_id in accounts[:-1]:
        (ended,) = runs.of(account_id)
        assert ended.ended_why == "rollout", account_id


def test_a_bad_canary_pauses_the_rollout_and_runs_as_before(fleet: Fleet) -> None:
    accounts = fleet.add_accounts(3)
    for account_id in accounts:
        fleet.run_json("start", account_id)
    with fleet.admin() as admin:
        for login in (5011, 5012, 5013):
            admin.create_account("Paper-1", login, "another-password")
    fleet.await_ticks(4)
    for number, account_id in enumerate(accounts, 11):
        fleet.add_account(account_id, 5000 + number, reload={"restart": "manual"})
    eventually(lambda: pending(fleet) == 3, within=20, what="the host notices it")
    rollout_id = fleet.run_json("rollout", "start", *QUICK)["rollout"]["id"]
    watched = fleet.run("rollout", "show", rollout_id, "--watch", timeout=90)
    assert watched.returncode == 1
    assert "paused" in watched.stdout
    assert "account-001: " in watched.stdout
    assert sorted(one["login"] for one in fleet.stats()["live"]) == ["5001", "5002", "5003"]
    assert fleet.run("rollout", "cancel", rollout_id).returncode == 0
    assert fleet.run("rollout", "resume", rollout_id).returncode == 1
    kinds = fleet.run("events", "--type", "rollout.*").stdout
    for kind in ("rollout.begun", "rollout.failed", "rollout.paused", "rollout.cancelled"):
        assert kind in kinds
