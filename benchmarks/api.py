"""Measures `manager api` over a fleet that only Redis holds, and Flower over the same Redis.

25 hosts have 200 workers each, which this program writes. Requests come from a process of its own, over 8
connections, once while no heartbeat changes and once while every heartbeat changes each second. A scrape
shows every account, after every heartbeat changed. The idle server has 1,000 workers and no client.

Flower keeps Celery's workers and tasks only; it has no accounts. Here it shows 25 workers, which have sent
its events for as many tasks as they have accounts.
"""

import argparse
import http.client
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil
from celery_agents import CeleryAgents
from common import machine, pss_megabytes, table
from fake_fleet import FakeFleet, bearer, environment, served
from http_load import Load, load
from support.ports import free_port
from support.servers import RedisServer
from support.waiting import eventually

#: (path of the API, requests a second and milliseconds that it must reach).
PAGES: Final = {
    "/api/v1/workers?limit=1000": "≥ 250/s, p99 ≤ 60",
    "/api/v1/accounts?limit=100": "≥ 1,000/s",
}
FLOWER_PAGE: Final = "/api/workers"
IDLE_WORKERS: Final = 40


def get(port: int, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers=dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def load_row(what: str, path: str, found: Load, aim: str = "") -> list[object]:
    assert found.ok, f"{path}: {found.statuses}"
    return [
        f"{what} `{path}`",
        f"{found.requests_per_second:,.0f}",
        f"{found.p50:.1f}",
        f"{found.p99:.1f}",
        f"{found.body_bytes / 1000:,.0f}",
        aim,
    ]


def scrape_row(
    what: str, port: int, headers: Mapping[str, str], fleet: FakeFleet, rounds: int
) -> list[object]:
    """Scrape after every heartbeat changed; return medians."""
    times, page = [], b""
    for _ in range(rounds):
        fleet.send()
        time.sleep(1.2)  # a scrape within a second would get the listing of the one before
        began = time.perf_counter()
        status, page = get(port, "/metrics", headers)
        times.append((time.perf_counter() - began) * 1000)
        assert status == 200, page
    series = sum(1 for line in page.splitlines() if line and not line.startswith(b"#"))
    return [
        what,
        f"{statistics.median(times):.0f}",
        f"{max(times):.0f}",
        f"{series:,}",
        f"{len(page) / 1e6:.1f}",
    ]


def loads(fleet: FakeFleet, api: int, flower: int, headers: Mapping[str, str], seconds: float) -> str:
    """Return the table of loads. The API and Flower take turns."""
    rows = []
    for changing in (False, True):
        what = "every heartbeat changes:" if changing else "no heartbeat changes:"
        with fleet.sending(beats=changing):
            time.sleep(2)
            for path, aim in PAGES.items():
                rows.append(load_row(what, path, load(api, path, headers, seconds=seconds), aim))
    rows.append(load_row("Flower", FLOWER_PAGE, load(flower, FLOWER_PAGE, seconds=seconds)))
    return table(("GET", "requests/s", "p50 ms", "p99 ms", "kB", "aim"), rows)


def measure(directory: Path, asked: argparse.Namespace) -> None:
    """Print the tables of the large fleet."""
    server = RedisServer(directory)
    try:
        fleet = FakeFleet(server.url, asked.hosts, asked.workers)
        fleet.start()
        headers, variables = bearer(server.url), environment(server.url, directory)
        api_port, flower_port = free_port(), free_port()
        with (
            CeleryAgents(server.url, fleet.accounts) as agents,
            served("api", api_port, directory, variables) as api,
            served("flower", flower_port, directory, variables) as flower,
        ):
            total = f'"total":{fleet.size}'.encode()
            page = "/api/v1/workers?limit=1"
            eventually(lambda: total in get(api_port, page, headers)[1], within=60, what="the API has them")
            eventually(lambda: get(flower_port, "/metrics", {})[0] == 200, within=60, what="Flower answers")
            agents.send_tasks()
            eventually(
                lambda: get(flower_port, FLOWER_PAGE, {})[1].count(b'"stats"') == asked.hosts,
                within=60,
                what="Flower has the workers",
            )
            began = pss_megabytes([api.pid])
            scrapes = [
                scrape_row("manager api", api_port, headers, fleet, asked.rounds),
                scrape_row("Flower", flower_port, {}, fleet, asked.rounds),
            ]
            print(f"{fleet.size:,} accounts on {asked.hosts} hosts; {asked.seconds:.0f} s each.\n")
            print(loads(fleet, api_port, flower_port, headers, asked.seconds))
            print(f"\nA scrape, median of {asked.rounds}; the aim: ≤ 400 ms, ≤ 65,000 series.\n")
            print(table(("/metrics of", "p50 ms", "slowest ms", "series", "MB"), scrapes))
            sizes = [
                ("manager api", f"{began:.0f}", f"{pss_megabytes([api.pid]):.0f}"),
                ("Flower", "", f"{pss_megabytes([flower.pid]):.0f}"),
            ]
            print("\nMemory (PSS); the aim: ≤ 110 MB.\n")
            print(table(("server", "MB, first page served", "MB, at the end"), sizes))
    finally:
        server.close()


def measure_idle(directory: Path, asked: argparse.Namespace) -> None:
    """Print what a server without clients costs."""
    directory.mkdir()
    server = RedisServer(directory)
    try:
        fleet = FakeFleet(server.url, asked.hosts, IDLE_WORKERS)
        fleet.start()
        headers, variables = bearer(server.url), environment(server.url, directory)
        port = free_port()
        with served("api", port, directory, variables) as api, fleet.sending():
            page = "/api/v1/workers?limit=1"
            eventually(lambda: get(port, page, headers)[0] == 200, within=60, what="the API answers")
            time.sleep(17)  # for so long the view reads heartbeats for the last client
            process = psutil.Process(api.pid)
            before, began = sum(process.cpu_times()[:2]), time.perf_counter()
            time.sleep(asked.idle)
            used = sum(process.cpu_times()[:2]) - before
            percent = used / (time.perf_counter() - began) * 100
        row = [f"{fleet.size:,}", f"{percent:.2f}"]
        print(f"\nIdle for {asked.idle:.0f} s, no client; the aim: ≤ 1 %.\n")
        print(table(("workers", "% of a core"), [row]))
    finally:
        server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=25)
    parser.add_argument("--workers", type=int, default=200, help="for each host")
    parser.add_argument("--rounds", type=int, default=9, help="scrapes")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds without a client")
    asked = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="wm-") as directory:
        measure(Path(directory), asked)
        measure_idle(Path(directory) / "idle", asked)


if __name__ == "__main__":
    main()
