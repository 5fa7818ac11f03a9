"""Compares `start-all` with a `subprocess.Popen` loop.

Both start `Worker` with the paper gateway at the same venue and Redis. A worker is ready after its session is
connected and its first heartbeat is sent. The loop starts all interpreters at once, then waits for each.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

from common import fleet, machine, popen_worker, pss_megabytes, service_of, table, worker_spec
from support.fleet import Fleet

from manager.config import ConfigurationService
from manager.service import WorkerManagerService


def through_the_fleet(found: Fleet, service: WorkerManagerService, count: int) -> tuple[float, float, float]:
    """Return the seconds to start, megabytes per worker, and seconds to stop."""
    began = time.perf_counter()
    result = service.start_all()
    started = time.perf_counter() - began
    assert len(result.done) == count, result.failed
    size = pss_megabytes([ref.pid for ref in found.workers().values()])
    began = time.perf_counter()
    stopped = service.stop_all()
    assert len(stopped.done) == count, stopped.failed
    return started, size, time.perf_counter() - began


def by_popen(found: Fleet, accounts: list[str]) -> tuple[float, float, float]:
    """Do the same with a loop over `subprocess.Popen`."""
    configuration = ConfigurationService(found.config_dir)
    specs = [worker_spec(found, configuration, account_id) for account_id in accounts]
    began = time.perf_counter()
    children = []
    for spec in specs:
        child = popen_worker(spec)
        children.append(child)
    try:
        for child in children:
            assert child.stdout is not None
            assert json.loads(child.stdout.readline())["event"] == "connected"
        started = time.perf_counter() - began
        size = pss_megabytes([child.pid for child in children])
        began = time.perf_counter()
        for child in children:
            child.terminate()
        for child in children:
            assert child.wait(timeout=60) == 0
        return started, size, time.perf_counter() - began
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.communicate()


def median_of(runs: int, one: Callable[[], tuple[float, float, float]]) -> list[float]:
    results = [one() for _ in range(runs)]
    return [statistics.median(column) for column in zip(*results, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 50, 200])
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    rows = []
    for count in given.counts:
        with fleet() as found:
            accounts = found.add_accounts(count)
            service = service_of(found)
            through_the_fleet(found, service, count)  # creates the accounts at the venue and caches the files
            ours = median_of(given.runs, lambda: through_the_fleet(found, service, count))  # noqa: B023
            loop = median_of(max(1, given.runs // 2), lambda: by_popen(found, accounts))  # noqa: B023
        rows += [
            (count, "start-all (Celery group)", *(f"{value:.2f}" for value in ours), ""),
            (count, "Popen loop", *(f"{value:.2f}" for value in loop), f"{loop[0] / ours[0]:.1f} times"),
        ]
    print(f"{machine()}; medians of {given.runs} runs (loop: {max(1, given.runs // 2)})\n")
    print(
        table(("accounts", "started by", "start s", "PSS MB each", "stop s", "start-all is faster by"), rows)
    )


if __name__ == "__main__":
    main()
