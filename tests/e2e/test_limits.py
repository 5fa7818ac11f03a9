"""Programs that use too much, with a real host agent."""

import json
import sys
from typing import Any

import pytest
from support.fleet import Fleet
from support.waiting import eventually

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux", reason="memory of a process tree is measured on Linux"),
]

#: What each program does after it has printed that it is ready, and its limits.
PROGRAMS: dict[str, tuple[str, dict[str, Any]]] = {
    "memory_mb": (
        "kept = []\nwhile True:\n    kept.append(bytearray(5 << 20))\n    time.sleep(0.2)",
        {"memory_mb": 100},
    ),
    "memory_hard_mb": (
        "kept = []\nwhile True:\n    kept.append(bytearray(5 << 20))\n    time.sleep(0.2)",
        {"memory_hard_mb": 100},
    ),
    "cpu_percent": ("while True:\n    pass", {"cpu_percent": 10, "cpu_window": "10s"}),
    "open_files": (
        "kept = []\nwhile len(kept) < 125:\n    kept.append(open('/dev/null'))\ntime.sleep(600)",
        {"open_files": 128},
    ),
    "processes": (
        "import subprocess\n"
        "code = 'import time; time.sleep(600)'\n"
        "kept = [subprocess.Popen([sys.executable, '-c', code]) for _ in range(8)]\n"
        "time.sleep(600)",
        {"processes": 6},
    ),
}


def add(fleet: Fleet, account_id: str, code: str, **limits: Any) -> None:
    fleet.add_account(
        account_id,
        None,
        gateway="command",
        server=None,
        password=None,
        currencies=None,
        command=[sys.executable, "-c", f"import sys, time\nprint('ready', flush=True)\n{code}"],
        ready={"line": "ready"},
        stop={"deadline_seconds": 2},
        limits={"when_flat": False, **limits},
    )


def events(fleet: Fleet, account_id: str, kind: str) -> list[dict[str, Any]]:
    lines = fleet.run("events", "--account", account_id, "--type", kind, "--json").stdout.splitlines()
    return [event for event in map(json.loads, lines) if "type" in event]


def test_each_excess_is_seen_and_the_program_restarted(fleet: Fleet) -> None:
    for limit, (code, limits) in PROGRAMS.items():
        add(fleet, limit, code, **limits)
        fleet.run_json("start", limit)
    for limit in PROGRAMS:
        found = eventually(
            lambda limit=limit: events(fleet, limit, "limit.enforced"),  # type: ignore[misc]
            within=60,
            what=f"the excess of {limit} is acted upon",
        )
        data = found[0]["data"]
        assert (data["limit"], data["action"]) == (limit, "kill" if limit == "memory_hard_mb" else "restart")
        assert data["text"] in str(
            eventually(
                lambda limit=limit: events(fleet, limit, "worker.restarting"),  # type: ignore[misc]
                within=20,
                what=f"{limit} is restarted",
            )
        )


def test_the_third_excess_is_the_last_and_a_start_begins_again(fleet: Fleet) -> None:
    add(fleet, "a", PROGRAMS["processes"][0], processes=6)
    fleet.run_json("start", "a")
    eventually(lambda: fleet.status("a") == "failed", within=90, what="it is not restarted again")
    shown = fleet.run("info", "a").stdout
    assert "it exceeds its limit again and again (3 times in 600 s)" in shown
    assert len(events(fleet, "a", "limit.enforced")) == 3
    # A host agent that starts knows the limits of running workers, and a command ends the count.
    add(fleet, "a", "time.sleep(600)", processes=6)
    fleet.run_json("start", "a")
    assert fleet.status("a") == "running"
    eventually(
        lambda: "processes 3 of 6" in fleet.run("info", "a").stdout,
        within=30,
        what="info shows what it uses of its limits",
    )


def test_a_stop_while_the_restart_waits_is_final(fleet: Fleet) -> None:
    add(fleet, "a", PROGRAMS["processes"][0], processes=6, when_flat=True)
    fleet.run_json("start", "a")
    eventually(lambda: events(fleet, "a", "limit.exceeded"), within=30, what="the excess is seen")
    assert "limit_exceeded" in fleet.run("info", "a").stdout
    assert fleet.status("a") == "running"
    fleet.run_json("stop", "a")
    assert fleet.status("a") == "stopped"
    assert events(fleet, "a", "limit.enforced") == []
    assert events(fleet, "a", "worker.restarting") == []


def test_a_raised_limit_in_the_file_ends_the_excess_without_a_restart(fleet: Fleet) -> None:
    add(fleet, "a", PROGRAMS["processes"][0], processes=6, when_flat=True)
    fleet.run_json("start", "a")
    before = fleet.workers()["a"]
    eventually(lambda: events(fleet, "a", "limit.exceeded"), within=30, what="the excess is seen")
    add(fleet, "a", PROGRAMS["processes"][0], processes=60, when_flat=True)
    eventually(lambda: events(fleet, "a", "limit.cleared"), within=40, what="the new limit applies")
    assert fleet.workers()["a"] == before
    info = fleet.store.get_worker("a")
    assert info is not None
    assert info.placement.exceeded is None
    assert (info.placement.limits or {})["processes"] == 60


def test_on_exceed_stop_and_the_doctor(fleet: Fleet) -> None:
    add(fleet, "a", PROGRAMS["processes"][0], processes=6, on_exceed="stop")
    fleet.run_json("start", "a")
    eventually(lambda: fleet.status("a") == "failed", within=30, what="it is stopped")
    assert "it is not restarted (limits.on_exceed is stop)" in fleet.run("info", "a").stdout
    (check,) = [one for one in json.loads(fleet.run("doctor", "--json").stdout) if one["code"] == "limits"]
    assert check["outcome"] == "ok"
    assert "limits" in check["found"]


def test_a_program_starts_with_its_limit_of_open_files(fleet: Fleet) -> None:
    code = "import resource\nprint('soft', resource.getrlimit(resource.RLIMIT_NOFILE)[0], flush=True)\n"
    add(fleet, "a", f"{code}time.sleep(600)", open_files=2048)
    fleet.run_json("start", "a")
    eventually(lambda: "soft 2048" in fleet.run("logs", "a").stdout, what="the program's limit")
