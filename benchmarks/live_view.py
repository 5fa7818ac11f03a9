"""Compares the live view of 5,000 workers with listing the fleet.

There are 25 hosts, and the listing runs once per second.

Figures are milliseconds of CPU per second of watching, the median of the rounds: when every heartbeat
changed, when nothing changed, and for one `FleetStore.list_workers()`.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import machine
from support.servers import RedisServer

from manager.fleet import FleetStore
from manager.fleet.desired_store import DesiredStore
from manager.fleet.events import EVENTS_KEPT
from manager.fleet.keys import beats_key
from manager.fleet.live_reads import LiveReads
from manager.models import WorkerInfo, utc_now
from manager.states import WorkerLifecycleStatus
from manager.telemetry.view import FleetView


def worker(account_id: str, host: str) -> WorkerInfo:
    metadata = {"host": host, "pid": 4711, "epoch": 3, "gateway": "paper", "version": "0.3.0", "restarts": 0}
    return WorkerInfo(
        worker_id=f"w-{account_id}",
        account_id=account_id,
        status=WorkerLifecycleStatus.RUNNING,
        started_at=utc_now(),
        groups=("fx",),
        metadata=metadata,
    )


def beat(account_id: str, round_: int) -> dict[str, Any]:
    return {
        "worker_id": f"w-{account_id}",
        "loop_age_seconds": 0.1,
        "health": "healthy",
        "health_reason": None,
        "balance": "10000.00",
        "equity": f"{10_000 + round_}.{len(account_id):02}",
        "currency": "USD",
        "open_positions": round_ % 5,
        "last_tick_age_seconds": 0.4,
        "cpu_percent": 0.7,
        "memory_bytes": 12_000_000 + round_,
    }


def cpu_ms(call: Callable[[], object]) -> float:
    before = time.process_time()
    call()
    return (time.process_time() - before) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=25)
    parser.add_argument("--workers", type=int, default=200, help="for each host")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wm-") as directory:
        server = RedisServer(Path(directory))
        try:
            measure(server, asked)
        finally:
            server.close()


def measure(server: RedisServer, asked: argparse.Namespace) -> None:
    url = server.url
    store = FleetStore(url, stale_after_seconds=3600)
    of_hosts = {
        f"host-{h:02}": [f"account-{h:02}-{w:04}" for w in range(asked.workers)] for h in range(asked.hosts)
    }

    def send(round_: int) -> None:
        now = time.time()
        for host, accounts in of_hosts.items():
            store.report_agent(host, {"time": now, "workers": len(accounts)})
            values = {a: f"{now:.6f} {json.dumps(beat(a, round_), separators=(',', ':'))}" for a in accounts}
            store._client.hset(beats_key(host), mapping=values)

    for host, accounts in of_hosts.items():
        store.record(host, [worker(account_id, host) for account_id in accounts], {})
    send(0)
    view = FleetView(LiveReads(url, events_kept=EVENTS_KEPT), DesiredStore(url), stale_after_seconds=3600)
    view.step()
    changed, still, listing = [], [], []
    for round_ in range(1, asked.rounds + 1):
        view.interested()
        send(round_)
        changed.append(cpu_ms(view._tick))
        still.append(cpu_ms(view._tick))
        listing.append(cpu_ms(store.list_workers))
    rows = cpu_ms(view.workers)
    total = asked.hosts * asked.workers
    print(machine())
    print(f"{total} workers on {asked.hosts} hosts, CPU milliseconds a second, median of {asked.rounds}:")
    print(f"  view, every figure changed   {statistics.median(changed):8.1f}")
    print(f"  view, nothing changed        {statistics.median(still):8.1f}")
    print(f"  listing the fleet            {statistics.median(listing):8.1f}")
    print(f"  all rows as WorkerInfo, once {rows:8.1f}")


if __name__ == "__main__":
    main()
