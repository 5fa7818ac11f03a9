"""A worker whose log takes no more lines trades on, counts what is lost, and says so once there is room."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pool_host import Host
from support.waiting import eventually

if sys.platform != "linux":
    pytest.skip("limits of another process are of Linux", allow_module_level=True)
import resource

TICKS = (
    "import time\nprint('ready', flush=True)\nwhile True:\n    print('tick', flush=True); time.sleep(0.02)\n"
)


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    yield found
    found.close()


def test_a_worker_with_a_full_log_goes_on(host: Host) -> None:
    """A limit on the size of the worker's files stands for the full disk: the system refuses the write in the same way."""
    changes: dict[str, Any] = dict.fromkeys(("server", "password", "currencies"))
    changes |= {"gateway": "command", "command": [sys.executable, "-c", TICKS], "ready": {"line": "ready"}}
    host.account("a", None, **changes)
    process = host.process(host.start())
    log = host.paths.worker_log("a")
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (log.stat().st_size + 20, hard))

    def missing() -> int:
        return int(host.pool.list_workers()[0].metadata.get("log_lines_missing", 0))

    eventually(lambda: missing() >= 3)
    info = host.pool.list_workers()[0]
    assert (info.status, process.alive()) == ("running", True)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))
    told = re.compile(r"action=lines_lost lines=(\d+) \| \1 lines lost: File too large")
    lost = eventually(lambda: told.findall(log.read_text()))
    assert int(lost[0]) >= 3
    assert host.pool.stop_worker("a")
    assert "action=stopped clean=True" in log.read_text()
