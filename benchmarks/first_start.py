"""Measures the first `manager start-all` of a new fleet with defaults.

It counts started accounts and connections to Redis. Nothing is cached: no account was ever started, the venue
has no accounts, and the host agent is that of `manager host`.
"""

import argparse
import json
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

from common import machine, table
from support.fleet import Fleet
from support.servers import RedisServer


class Watch:
    """Records the maximum number of concurrent connections to Redis."""

    def __init__(self, redis: RedisServer) -> None:
        self.most = 0
        self._redis = redis
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> int:
        self._ended.set()
        self._thread.join()
        return self.most

    def _run(self) -> None:
        with self._redis.client() as client:
            while not self._ended.wait(0.02):
                self.most = max(self.most, int(client.info("clients")["connected_clients"]))


def first_start(count: int) -> list[str]:
    directory = Path(tempfile.mkdtemp(prefix="wm-"))
    (directory / "redis").mkdir()
    redis = RedisServer(directory / "redis")
    fleet = Fleet(directory, redis, host="bench")
    fleet.extra_environment["MANAGER_LEASE_SECONDS"] = (
        "15"  # the default; the test fleet uses a shorter lease
    )
    try:
        fleet.start_venue()
        fleet.add_accounts(count)
        fleet.agent = fleet.spawn(sys.executable, "-m", "manager.cli", "host", log="agent")
        fleet.await_agent()
        watch = Watch(redis)
        began = time.perf_counter()
        done = fleet.run("start-all", "--json", timeout=900)
        took = time.perf_counter() - began
        peak = watch.end()
        answer = json.loads(done.stdout)
        started, failed = len(answer["started"]), len(answer.get("failed", {}))
        for account_id, why in list(answer.get("failed", {}).items())[:3]:
            print(f"{account_id}: {why}", file=sys.stderr)
        lines = fleet.log("agent").count("cannot be used")
        return [str(count), str(started), str(failed), str(lines), f"{took:.1f} s", str(peak)]
    finally:
        fleet.close()
        redis.close()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[200, 1000])
    given = parser.parse_args()
    rows = [first_start(count) for count in given.counts]
    print(machine())
    print(table(("accounts", "started", "failed", "Redis refused", "time", "max. connections"), rows))


if __name__ == "__main__":
    main()
