"""A worker with a full log keeps trading and reports the lost lines later."""

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
    "import time\nprint('ready', flush=True)\nwhile True:\n    print('tick', flush=True); time.sleep(0.01)\n"
)
PROGRAM: dict[str, Any] = {
    **dict.fromkeys(("server", "password", "currencies")),
    "gateway": "command",
    "command": [sys.executable, "-c", TICKS],
    "ready": {"line": "ready"},
}


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    yield found
    found.close()


def test_the_output_of_a_program_is_logged_at_every_level(host: Host) -> None:
    host.settings = host.settings.model_copy(
        update={"log_level": "ERROR", "log_files": 2, "log_file_bytes": 10_000}
    )
    host.pool.close()
    host.new_pool()
    host.account("a", None, **PROGRAM)
    host.start()
    log = host.paths.worker_log("a")
    eventually(lambda: "stream=stdout | tick" in log.read_text())
    assert "action=connect" not in log.read_text()
    # 100 bytes for each tick: the rotation settings have reached the worker.
    eventually(Path(f"{log}.1").exists)
    assert host.pool.stop_worker("a")


def test_a_worker_with_a_full_log_keeps_trading(host: Host) -> None:
    """A limit on the size of the worker's files simulates the full disk.

    The system refuses the write in the same way.
    """
    host.account("a", None, **PROGRAM)
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
    reported = re.compile(r"action=lines_lost lines=(\d+) \| \1 lines lost: File too large")
    lost = eventually(lambda: reported.findall(log.read_text()))
    assert int(lost[0]) >= 3
    assert host.pool.stop_worker("a")
    assert "action=stopped clean=True" in log.read_text()
