"""Measures stops on a busy host, and the cost of idle workers.

It compares the time of a stop while a hundred slow starts are queued with that on an idle host. With 200 idle
workers it measures the commands per second at Redis, and the CPU of Redis, the host agent and the workers.
Each worker has one heartbeat per second and one cycle per 30 s. Redis counts the commands in a script
separately.
"""

import argparse
import statistics
import threading
import time

import psutil
from common import fleet, machine, service_of, table
from support.fleet import Fleet
from support.waiting import eventually

from manager.service import WorkerManagerService


def stops(found: Fleet, service: WorkerManagerService, accounts: list[str]) -> list[float]:
    """Stop each account; return the seconds until the caller had the result."""
    times = []
    for account_id in accounts:
        began = time.perf_counter()
        assert service.stop_worker(account_id)
        times.append(time.perf_counter() - began)
    return times


def under_load(found: Fleet, count: int) -> tuple[list[float], list[float]]:
    service = service_of(found)
    accounts = found.add_accounts(200 + 2 * count)
    fast, slow = accounts[: 2 * count], accounts[2 * count :]
    for account_id in fast:
        service.start_worker_from_config(account_id)
    idle = stops(found, service, fast[:count])
    with found.admin() as admin:
        for account_id in slow:
            admin.script_fault("Paper-1", 5000 + int(account_id[-3:]), "slow", seconds=10.0, on=("login",))
    starting = threading.Thread(target=service.start_all)
    starting.start()
    eventually(lambda: len(found.workers()) > 60, within=30, what="slow starts fill the host")
    loaded = stops(found, service, fast[count:])
    with found.admin() as admin:
        for account_id in slow:
            admin.clear_faults("Paper-1", 5000 + int(account_id[-3:]))
    starting.join()
    service.stop_all()
    return idle, loaded


def idle_cost(found: Fleet, count: int, seconds: float) -> tuple[float, float, float, float]:
    """Return Redis's commands per second, and CPU percentages.

    CPU is in percent of a core: of Redis, the agent, and all workers together.
    """
    service = service_of(found)
    for number in range(1, count + 1):
        found.add_account(f"account-{number:03}", 5000 + number, execution={"interval_seconds": 30})
    assert not service.start_all().failed
    time.sleep(5)  # until the cost of the start is over
    assert found.agent is not None
    groups = (
        [found.redis.process.pid],
        [found.agent.pid],
        [ref.pid for ref in found.workers().values()],
    )
    with found.redis.client() as client:
        before = int(client.info("stats")["total_commands_processed"])
        spent = [_cpu(pids) for pids in groups]
        time.sleep(seconds)
        after = int(client.info("stats")["total_commands_processed"])
        used = [_cpu(pids) - old for pids, old in zip(groups, spent, strict=True)]
    service.stop_all()
    redis, agent, workers = (100 * value / seconds for value in used)
    return (after - before) / seconds, redis, agent, workers


def _cpu(pids: list[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(one.user + one.system for one in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--idle", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=20.0)
    given = parser.parse_args()
    print(f"{machine()}\n")
    with fleet() as found:
        idle, loaded = under_load(found, given.stops)
    rows = [
        (
            name,
            f"{statistics.median(times) * 1000:.0f}",
            f"{statistics.quantiles(times, n=20)[-1] * 1000:.0f}",
        )
        for name, times in (("nothing else", idle), ("200 slow starts queued", loaded))
    ]
    print(table(("a stop beside", "p50 ms", "p95 ms"), rows))
    with fleet() as found:
        commands, redis, agent, workers = idle_cost(found, given.idle, given.seconds)
    print()
    print(
        table(
            ("idle workers", "Redis commands/s", "Redis % of a core", "host agent %", "all workers %"),
            [(given.idle, f"{commands:.0f}", f"{redis:.1f}", f"{agent:.1f}", f"{workers:.1f}")],
        )
    )


if __name__ == "__main__":
    main()
