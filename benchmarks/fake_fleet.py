"""A fleet that only Redis holds: records, heartbeats and reports as real hosts and workers write them.

And the programs that show it: `manager api` and `manager flower`.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from manager.fleet import FleetStore
from manager.fleet.keys import beats_key
from manager.fleet.tokens import TokenStore
from manager.models import WorkerInfo, utc_now
from manager.settings import Settings
from manager.states import WorkerLifecycleStatus
from manager.versions import __version__

HOSTS: Final = 25
WORKERS: Final = 200


def worker(account_id: str, host: str) -> WorkerInfo:
    """Return the record of a worker that runs."""
    return WorkerInfo(
        worker_id=f"w-{account_id}",
        account_id=account_id,
        status=WorkerLifecycleStatus.RUNNING,
        started_at=utc_now(),
        groups=("fx",),
        labels={"desk": "london"},
        metadata={
            "host": host,
            "pid": 4711,
            "epoch": 3,
            "generation": 1_796_083_200_000,
            "gateway": "paper",
            "version": __version__,
            "config_version": "a1b2c3d4e5f6",
            "log_file": f"/var/lib/worker-manager/log/{account_id}.log",
            "restarts": 0,
        },
    )


def beat(account_id: str, round_: int) -> dict[str, Any]:
    """Return a worker's heartbeat; its figures differ in each round."""
    return {
        "worker_id": f"w-{account_id}",
        "loop_age_seconds": 0.1,
        "health": "healthy",
        "health_reason": None,
        "can_trade": True,
        "last_heartbeat": utc_now().isoformat(),
        "environment": "demo",
        "balance": "10000.00",
        "equity": f"{10_000 + round_}.{len(account_id):02}",
        "profit": "1.50",
        "margin": "120.00",
        "free_margin": "9880.00",
        "margin_level": 900.5,
        "currency": "USD",
        "open_positions": round_ % 5,
        "last_tick_age_seconds": 0.4,
        "cpu_percent": 0.7,
        "cpu_seconds": round_ / 10,
        "memory_bytes": 12_000_000 + round_,
    }


class FakeFleet:
    """Stands for hosts and workers: writes what they would."""

    def __init__(self, url: str, hosts: int = HOSTS, workers: int = WORKERS) -> None:
        self.url = url
        self.store = FleetStore(url, stale_after_seconds=3600)
        #: Host → its accounts.
        self.accounts = {
            f"host-{h:02}": [f"account-{h:02}-{w:04}" for w in range(workers)] for h in range(hosts)
        }
        self.size = hosts * workers
        self._round = 0

    def start(self) -> None:
        """Record every worker, and send the first heartbeats."""
        for host, accounts in self.accounts.items():
            self.store.record(host, [worker(one, host) for one in accounts], {})
        self.send()

    def send(self) -> None:
        """Write each host's report, and a heartbeat of each worker that differs from the one before."""
        self._round += 1
        self.report()
        for host, accounts in self.accounts.items():
            now = time.time()
            values = {one: f"{now:.6f} {json.dumps(beat(one, self._round))}" for one in accounts}
            self.store._client.hset(beats_key(host), mapping=values)

    def report(self) -> None:
        """Write each host's report."""
        for host, accounts in self.accounts.items():
            figures = {"time": time.time(), "memory_mb": 64_000, "available_mb": 9_000, "load": 0.5}
            states = {"states": {"running": len(accounts)}, "workers": len(accounts)}
            self.store.report_agent(host, {**figures, **states, "version": __version__})

    @contextmanager
    def sending(self, *, beats: bool = True) -> Iterator[None]:
        """Write once a second, on a thread: reports, and heartbeats unless `beats` is false."""
        ended = threading.Event()

        def run() -> None:
            while not ended.wait(1.0):
                if beats:
                    self.send()
                else:
                    self.report()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def environment(url: str, directory: Path, **more: str) -> dict[str, str]:
    """Return the environment of the programs that show a fake fleet."""
    (directory / "configs").mkdir(exist_ok=True)
    return {
        **os.environ,
        "MANAGER_REDIS_URL": url,
        "MANAGER_CONFIG_DIR": str(directory / "configs"),
        "MANAGER_STATE_DIR": str(directory / "state"),
        "MANAGER_METRICS_ACCOUNTS": "all",
        "MANAGER_STALE_AFTER_SECONDS": "600",
        "MANAGER_API_RATE_FACTOR": "1000000",
        "FLOWER_UNAUTHENTICATED_API": "true",
        **more,
    }


def settings_of(url: str) -> Settings:
    return Settings(redis_url=SecretStr(url))


def bearer(url: str) -> dict[str, str]:
    """Return the header of a new token that may read everything and the metrics."""
    _, text = TokenStore(url).create("benchmark", ("read", "metrics"), by="benchmark")
    return {"Authorization": f"Bearer {text}"}


@contextmanager
def served(
    name: str, port: int, directory: Path, variables: Mapping[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run `manager api` or `manager flower` on a port."""
    with (directory / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "manager.cli", name, "--port", str(port)],
            env=dict(variables),
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=20)
