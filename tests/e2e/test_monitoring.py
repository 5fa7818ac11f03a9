"""Celery's own monitoring: every process of the fleet can query the agents."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.fleet import Fleet
from support.flower import Flower
from support.waiting import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def celery(fleet: Fleet, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a `celery -A tasks` command as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "celery", "-A", "tasks", *arguments],
        env=fleet.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_celerys_status_and_inspect_hear_the_agents(fleet: Fleet) -> None:
    name = f"agent@{fleet.host}"
    status = celery(fleet, "status")
    assert status.returncode == 0, status.stdout + status.stderr
    assert f"{name}: OK" in status.stdout
    for command in ("ping", "stats", "active_queues"):
        result = celery(fleet, "inspect", command, "--json")
        assert result.returncode == 0, (command, result.stdout, result.stderr)
        answer = json.loads(result.stdout)[name]
        if command == "active_queues":
            assert {queue["name"] for queue in answer} == {"celery", f"host.{fleet.host}"}
    # A remote control command that changes an agent is answered with a rejection.
    for arguments in (("shutdown",), ("pool_shrink", "64"), ("cancel_consumer", f"host.{fleet.host}")):
        celery(fleet, "control", "--timeout", "1", *arguments)
    assert celery(fleet, "inspect", "ping").returncode == 0
    assert fleet.agent is not None
    assert fleet.agent.poll() is None
    result = celery(fleet, "inspect", "active_queues", "--json")
    assert {queue["name"] for queue in json.loads(result.stdout)[name]} == {"celery", f"host.{fleet.host}"}


def test_flower_has_a_page_for_each_agent_and_the_lengths_of_its_queues(fleet: Fleet, tmp_path: Path) -> None:
    flower = Flower(fleet, tmp_path)
    name, queue = f"agent@{fleet.host}", f"host.{fleet.host}"

    def workers() -> dict[str, dict[str, object]]:
        found: dict[str, dict[str, object]] = json.loads(flower.ask("/api/workers"))
        return found

    eventually(
        lambda: workers().get(name, {}).keys() >= {"stats", "active_queues"},
        within=20,
        what=f"Flower knows {name}: {workers()}",
    )
    assert {one["name"] for one in workers()[name]["active_queues"]} == {"celery", queue}  # type: ignore[attr-defined]
    assert flower.status(f"/worker/{name}") == 200
    lengths = json.loads(flower.ask("/api/queues/length"))["active_queues"]
    assert {"name": queue, "messages": 0} in lengths
