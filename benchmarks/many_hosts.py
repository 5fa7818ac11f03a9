"""Compares `start-all` of 1,000 accounts on 10 hosts with Celery no-ops.

The no-ops are a Celery group of 1,000 on the same broker.

All agents run on this machine. Each worker is idle: a session at the paper venue with one cycle per hour, or
with `--program` a program that sleeps. It therefore measures the commands themselves: placement, desired
state, leases, the group, and starting the processes.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

from celery import group
from common import fleet, machine, service_of, start_noop, table
from support.fleet import Fleet

from manager.client.celery_pool import CeleryWorkerPool
from manager.service import WorkerManagerService


def through_the_fleet(service: WorkerManagerService, count: int) -> tuple[float, float, float]:
    """Return the seconds until all were sent, had an outcome, were stopped."""
    pool = service.worker_pool
    assert isinstance(pool, CeleryWorkerPool)
    began = time.perf_counter()
    left = service.start_all(wait=False)
    sent = time.perf_counter() - began
    assert len(left.pending) == count, left.failed
    while True:
        _, result = pool.batch_result(left.batch_id)
        if not result.pending:
            break
        time.sleep(0.05)
    done = time.perf_counter() - began
    assert len(result.done) == count, (len(result.done), sorted(result.failed.values())[:3])
    hosts = {str(info.metadata["host"]) for info in result.done.values()}
    infos = service.list_workers()
    assert sum(info.status == "running" for info in infos) == count
    print(f"  {count} accounts on {len(hosts)} hosts: sent in {sent:.2f} s, all running after {done:.2f} s")
    began = time.perf_counter()
    stopped = service.stop_all()
    assert len(stopped.done) == count, sorted(stopped.failed.values())[:3]
    return sent, done, time.perf_counter() - began


def no_ops(noop: object, count: int) -> tuple[float, float]:
    """Return the seconds until a group of no-ops was sent and joined."""
    began = time.perf_counter()
    result = group([noop] * count).apply_async()
    sent = time.perf_counter() - began
    result.get(timeout=120)
    return sent, time.perf_counter() - began


_SESSION: Final[dict[str, Any]] = {"execution": {"interval_seconds": 3600, "stop_timeout_seconds": 60}}
_PROGRAM: Final[dict[str, Any]] = {
    "gateway": "command",
    "command": ["sleep", "1000000"],
    "ready": {"after_seconds": 0.01},
    "server": None,
    "password": None,
    "currencies": None,
    "execution": {"stop_timeout_seconds": 60},
}


def medians(rows: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accounts", type=int, default=1000)
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--program", action="store_true", help="workers that run a program")
    given = parser.parse_args()
    # Two cores cannot process a thousand heartbeats per second; ten separate machines could.
    seldom = {"MANAGER_HEARTBEAT_INTERVAL_SECONDS": "4"}
    with fleet(seldom) as found:
        others = [
            Fleet(found.paths.root.parent / f"h{number}", found.redis, f"bench-{number}", beside=found)
            for number in range(2, given.hosts + 1)
        ]
        try:
            for other in others:
                other.extra_environment |= seldom
                other.spawn_agent()
            for other in others:
                other.await_agent()
            for number in range(1, given.accounts + 1):
                account_id = f"account-{number:04}"
                if given.program:
                    found.add_account(account_id, None, **_PROGRAM)
                else:
                    found.add_account(account_id, 5000 + number, **_SESSION)
            noop = start_noop(found)
            service = service_of(found)
            through_the_fleet(service, given.accounts)
            ours, bare = [], []
            for _ in range(given.runs):
                ours.append(through_the_fleet(service, given.accounts))
                bare.append(no_ops(noop, given.accounts))
        finally:
            for other in others:
                other.close()
    sent, done, stopped = medians(ours)
    bare_sent, bare_done = medians(bare)
    count = given.accounts
    print(
        f"{machine()}; {count} accounts, {given.hosts} agents on this machine, medians of {given.runs} runs\n"
    )
    rows = [
        ("start-all", f"{count / sent:.0f}", f"{sent:.2f}", f"{done:.2f}", f"{stopped:.2f}"),
        ("Celery no-ops in a group", f"{count / bare_sent:.0f}", f"{bare_sent:.2f}", f"{bare_done:.2f}", ""),
    ]
    print(table(("what", "enqueued per second", "sent s", "all outcomes s", "stop-all s"), rows))


if __name__ == "__main__":
    main()
