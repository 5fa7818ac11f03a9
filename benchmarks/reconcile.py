"""CPU of one host agent that keeps 1,000 accounts by their schedules and files, with workers in name only.

The same host is measured without schedules, so that the difference is what they cost. A look at the account
files and a reconciliation happen every two seconds, so the table divides by two.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common import machine, table
from support.reconciled_host import ReconciledHost
from support.servers import RedisServer

#: A Wednesday evening: half of the accounts are outside their window.
NOW = datetime(2026, 11, 25, 17, tzinfo=UTC)
SECONDS = 2.0


def schedule(number: int) -> dict[str, Any]:
    opens, closes = ("08:00", "16:00") if number % 2 else ("07:00", "19:30")
    return {"clock": "UTC", "run": [{"days": "mon-fri", "from": opens, "to": closes}], "spread": "60s"}


def fill(host: ReconciledHost, count: int, *, scheduled: bool) -> None:
    for number in range(count):
        account_id = f"account-{number:05d}"
        host.account(account_id, number + 1, **({"schedule": schedule(number)} if scheduled else {}))
        host.set_running(account_id, "host")
        if not scheduled or number % 2 == 0:
            host.pool.live[account_id], host.pool.epochs[account_id] = 1, ((account_id,), 1)
    host.configuration.snapshot()
    for _ in range(6):
        host.reconcile()


def cpu(step: Callable[[], object], rounds: int) -> float:
    """Return the median CPU milliseconds of a step."""
    found: list[float] = []
    for _ in range(rounds):
        began = time.thread_time()
        step()
        found.append((time.thread_time() - began) * 1000)
    return statistics.median(found)


def look(host: ReconciledHost) -> float:
    """Return the median CPU milliseconds of reading all account files that have not changed."""
    service = host.configuration

    def once() -> None:
        service._snapshot = None if service._snapshot is None else (0.0, service._snapshot[1])
        service.snapshot()

    return cpu(once, 15)


def measure(count: int, *, scheduled: bool) -> dict[str, float]:
    directory = Path(tempfile.mkdtemp(prefix="wm-"))
    (directory / "redis").mkdir()
    redis = RedisServer(directory / "redis")
    host = ReconciledHost(directory, redis.url, "host", epoch=NOW.timestamp)
    try:
        fill(host, count, scheduled=scheduled)
        reconciler = host.reconciler
        return {
            "reconcile": cpu(reconciler.reconcile, 25),
            "files": look(host),
            "decide": cpu(lambda: [reconciler.schedules.decision(key) for key in host.pool.live], 25)
            * count
            / max(1, len(host.pool.live)),
            "reload": cpu(reconciler.reload.apply, 25),
        }
    finally:
        host.close()
        redis.close()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    count = parser.parse_args().count
    print(machine())
    plain, scheduled = measure(count, scheduled=False), measure(count, scheduled=True)
    rows = [
        ("reading all account files, unchanged", plain["files"], scheduled["files"]),
        ("deciding what every account does", plain["decide"], scheduled["decide"]),
        ("comparing what runs with its file", plain["reload"], scheduled["reload"]),
        ("everything that the reconciler does", plain["reconcile"], scheduled["reconcile"]),
    ]
    print(f"CPU milliseconds a second, {count:,} accounts on one host")
    print(
        table(
            ("what", "without schedules", "with schedules"),
            [(name, f"{one / SECONDS:.2f}", f"{two / SECONDS:.2f}") for name, one, two in rows],
        )
    )


if __name__ == "__main__":
    main()
