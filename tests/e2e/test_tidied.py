"""Files are removed from the state directory of a running fleet.

Nothing stops, and all commands work as before.
"""

import shutil

import pytest
from support.fleet import Fleet
from support.waiting import eventually

from manager.system.file_lock import FileLock

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A, B = "account-001", "account-002"


def test_found_14_logs_run_and_workers_come_back_under_a_living_agent(fleet: Fleet) -> None:
    fleet.add_accounts(2)
    fleet.run_json("start", A)
    worker = fleet.workers()[A]
    paths = fleet.paths
    for directory in (paths.logs_dir, paths.run_dir, paths.workers_dir):
        shutil.rmtree(directory)

    eventually(lambda: fleet.workers().get(A) == worker, what="the record is written again")
    eventually(paths.agent_control.exists, what="the agent listens again")
    eventually(lambda: FileLock(paths.agent_lock).held(), what="the lock is held under its name")
    assert worker.alive()
    assert fleet.run("start", B).returncode == 0
    assert "connected" in fleet.run("logs", B).stdout

    fleet.redis.stop()
    stopped = fleet.run("stop-all", "--local")
    assert (stopped.returncode, stopped.stderr) == (0, ""), stopped
    assert not worker.alive()
    assert "stopped clean=True" in fleet.run("logs", A).stdout.replace(" | ", " "), "its log came back"
