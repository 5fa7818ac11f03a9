"""Compares the live view of 5,000 workers with listing the fleet.

There are 25 hosts, and the listing runs once per second.

Figures are milliseconds of CPU per second of watching, the median of the rounds: when every heartbeat
changed, when nothing changed, and for one `FleetStore.list_workers()`.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import machine
from fake_fleet import FakeFleet
from support.servers import RedisServer

from manager.fleet.desired_store import DesiredStore
from manager.fleet.events import EVENTS_KEPT
from manager.fleet.live_reads import LiveReads
from manager.telemetry.view import FleetView


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
    fleet = FakeFleet(server.url, asked.hosts, asked.workers)
    fleet.start()
    view = FleetView(
        LiveReads(server.url, events_kept=EVENTS_KEPT), DesiredStore(server.url), stale_after_seconds=3600
    )
    view.step()
    changed, still, listing = [], [], []
    for _ in range(asked.rounds):
        view.interested()
        fleet.send()
        changed.append(cpu_ms(view._tick))
        still.append(cpu_ms(view._tick))
        listing.append(cpu_ms(fleet.store.list_workers))
    rows = cpu_ms(view.workers)
    print(machine())
    print(
        f"{fleet.size:,} workers on {asked.hosts} hosts, CPU milliseconds a second, median of {asked.rounds}:"
    )
    print(f"  view, every figure changed   {statistics.median(changed):8.1f}")
    print(f"  view, nothing changed        {statistics.median(still):8.1f}")
    print(f"  listing the fleet            {statistics.median(listing):8.1f}")
    print(f"  all rows as WorkerInfo, once {rows:8.1f}")


if __name__ == "__main__":
    main()
