"""Measures a scrape of 5,000 accounts, against Flower's metrics of the same Redis.

A real `manager api` serves a fleet of which records and heartbeats are written by this program, 25 hosts with
200 workers. All accounts have their own series, and every heartbeat changes before each scrape. Wall times
are those of an HTTP client on this machine.

Flower keeps metrics of Celery's workers and tasks only; it has no accounts. It shows 25 workers here, each of
which has sent its events for as many tasks as it has accounts.
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from celery.events import EventDispatcher
from common import machine, table
from live_view import beat, worker
from support.ports import free_port
from support.servers import RedisServer
from support.waiting import eventually

from manager.client.celery_app import sender_app
from manager.fleet import FleetStore, celery_url
from manager.fleet.keys import beats_key
from manager.settings import Settings

TOKEN: Final = "a-token-for-the-benchmark-0123456789"


class Writers:
    """Stands for hosts and workers: writes what they would."""

    def __init__(self, url: str, hosts: int, workers: int) -> None:
        self.store = FleetStore(url, stale_after_seconds=3600)
        self.accounts = {
            f"host-{h:02}": [f"account-{h:02}-{w:04}" for w in range(workers)] for h in range(hosts)
        }

    def start(self) -> None:
        for host, accounts in self.accounts.items():
            self.store.record(host, [worker(one, host) for one in accounts], {})
        self.send(0)

    def send(self, round_: int) -> None:
        now = time.time()
        for host, accounts in self.accounts.items():
            report = {"time": now, "memory_mb": 64_000, "available_mb": 9_000, "load": 0.5}
            self.store.report_agent(host, {**report, "states": {"running": len(accounts)}})
            values = {one: f"{now:.6f} {json.dumps(_figures(one, round_))}" for one in accounts}
            self.store._client.hset(beats_key(host), mapping=values)


def _figures(account_id: str, round_: int) -> dict[str, Any]:
    more = {"profit": "1.50", "margin_level": 900.5, "environment": "demo", "cpu_seconds": round_ / 10}
    return {**beat(account_id, round_), **more}


def tell_flower(url: str, writers: Writers) -> None:
    """Send Celery's events of one task for each account."""
    app = sender_app(celery_url(_settings(url)))
    with app.connection_for_write() as connection:
        for host, accounts in writers.accounts.items():
            events = EventDispatcher(connection, hostname=f"agent@{host}", app=app)
            events.send("worker-online", freq=2.0, sw_ident="py-celery", sw_ver="5.7.0", sw_sys="Linux")
            for one in accounts:
                events.send("task-received", uuid=one, name="tasks.start_worker", args="()", kwargs="{}")
                events.send("task-started", uuid=one)
                events.send("task-succeeded", uuid=one, runtime=0.1, result="''")
            events.close()


def _settings(url: str) -> Settings:
    return Settings.model_validate({"redis_url": url})


@contextmanager
def served(name: str, directory: Path, environment: dict[str, str]) -> Iterator[int]:
    """Run `manager api` or `manager flower` and give its port."""
    port = free_port()
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "manager.cli", name, "--port", str(port)],
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
        )
        try:
            yield port
        finally:
            process.terminate()
            process.wait(timeout=20)


def get(port: int, path: str = "/metrics") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


def series(page: bytes) -> int:
    return sum(1 for line in page.splitlines() if line and not line.startswith(b"#"))


def scrape(port: int, rounds: int, before: Callable[[int], None]) -> list[object]:
    """Return medians of a scrape: ms, ms at most, series, and megabytes."""
    times, page = [], b""
    for round_ in range(rounds):
        before(round_ + 1)
        time.sleep(1.2)  # a scrape within a second would get the listing of the one before
        began = time.perf_counter()
        status, page = get(port)
        times.append((time.perf_counter() - began) * 1000)
        assert status == 200, page
    return [
        f"{statistics.median(times):.0f}",
        f"{max(times):.0f}",
        f"{series(page):,}",
        f"{len(page) / 1e6:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=25)
    parser.add_argument("--workers", type=int, default=200, help="for each host")
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wm-") as directory:
        server = RedisServer(Path(directory))
        try:
            measure(server, Path(directory), asked)
        finally:
            server.close()


def measure(server: RedisServer, directory: Path, asked: argparse.Namespace) -> None:
    writers = Writers(server.url, asked.hosts, asked.workers)
    writers.start()
    token = directory / "token"
    token.write_text(TOKEN)
    (directory / "configs").mkdir()
    environment = {
        "MANAGER_REDIS_URL": server.url,
        "MANAGER_CONFIG_DIR": str(directory / "configs"),
        "MANAGER_STATE_DIR": str(directory / "state"),
        "MANAGER_METRICS_TOKEN_FILE": str(token),
        "MANAGER_METRICS_ACCOUNTS": "all",
        "MANAGER_STALE_AFTER_SECONDS": "600",
    }
    last = f'account="{writers.accounts[f"host-{asked.hosts - 1:02}"][-1]}"'.encode()
    with served("api", directory, environment) as api, served("flower", directory, environment) as flower:
        eventually(lambda: get(api)[0] == 200, within=60, what="the API answers")
        eventually(lambda: last in get(api)[1], within=60, what="the API shows every account")
        eventually(lambda: get(flower)[0] == 200, within=60, what="Flower answers")
        tell_flower(server.url, writers)
        eventually(
            lambda: get(flower)[1].count(b"agent@host-") > asked.hosts, within=60, what="Flower has them"
        )
        ours = scrape(api, asked.rounds, writers.send)
        theirs = scrape(flower, asked.rounds, writers.send)
    print(machine())
    accounts = asked.hosts * asked.workers
    print(f"{accounts:,} accounts on {asked.hosts} hosts, {asked.rounds} scrapes each.\n")
    headers = ("/metrics of", "p50 ms", "slowest ms", "series", "MB")
    print(table(headers, [("manager api", *ours), ("Flower", *theirs)]))


if __name__ == "__main__":
    main()
