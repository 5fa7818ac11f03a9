"""Measures recovery of killed workers, and adoption by a new agent.

It compares the time from `kill -9` of a worker until its successor is connected and recorded with a loop over
`subprocess.Popen` that restarts the same program. The system reports the end to both at once; they differ in
how they start a successor.
"""

import argparse
import json
import statistics
import time

from common import fleet, machine, popen_worker, service_of, table, worker_spec
from support.fleet import Fleet
from support.waiting import eventually

from manager.config import ConfigurationService
from manager.service import WorkerManagerService


def by_the_host(found: Fleet, accounts: list[str]) -> list[float]:
    """Kill each worker once.

    Return the seconds until Redis shows its successor running.
    """
    times = []
    for account_id in accounts:
        worker = found.workers()[account_id]
        before = found.store.get_worker(account_id)
        assert before is not None
        began = time.perf_counter()
        worker.kill()
        while True:
            info = found.store.get_worker(account_id)
            if info is not None and info.worker_id != before.worker_id and info.status == "running":
                break
            time.sleep(0.001)
        times.append(time.perf_counter() - began)
    return times


def by_popen(found: Fleet, accounts: list[str]) -> list[float]:
    """Do the same with a loop over `subprocess.Popen`."""
    configuration = ConfigurationService(found.config_dir)
    times = []
    for account_id in accounts:
        child = popen_worker(worker_spec(found, configuration, account_id))
        assert child.stdout is not None
        child.stdout.readline()
        began = time.perf_counter()
        child.kill()
        child.wait()
        child.communicate()
        child = popen_worker(worker_spec(found, configuration, account_id))
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["event"] == "connected"
        times.append(time.perf_counter() - began)
        child.terminate()
        child.communicate()
    return times


def adopting(found: Fleet, service: WorkerManagerService, count: int) -> float:
    """Kill the agent.

    Return the seconds from the start of the next one to its last adoption.
    """
    before = found.workers()
    assert len(before) == count
    found.end_agent()
    log = found.paths.component_log("agent")
    mark = log.stat().st_size
    found.start_agent()
    eventually(lambda: "action=agent_started" in log.read_text()[mark:], within=60)
    assert found.workers() == before
    lines = [line for line in log.read_text()[mark:].splitlines() if "action=worker_adopted " in line]
    assert len(lines) == count
    stamps = [_seconds(line) for line in lines]
    return stamps[-1] - stamps[0]


def _seconds(line: str) -> float:
    hours, minutes, seconds = line.split(maxsplit=1)[0].split("T")[1].rstrip("Z").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--adopt", type=int, default=200)
    given = parser.parse_args()
    with fleet() as found:
        accounts = found.add_accounts(given.adopt)
        service = service_of(found)
        assert not service.start_all().failed
        times = sorted(adopting(found, service, given.adopt) for _ in range(3))
        killed = by_the_host(found, accounts[: given.kills])
        service.stop_all()
        loop = by_popen(found, accounts[: max(10, given.kills // 6)])
    rows = [
        (
            name,
            len(found_times),
            f"{statistics.median(found_times) * 1000:.0f}",
            f"{statistics.quantiles(found_times, n=20)[-1] * 1000:.0f}",
        )
        for name, found_times in (("host agent, recorded in Redis", killed), ("Popen loop", loop))
    ]
    print(f"{machine()}\n")
    print(table(("kill -9 to connected again by", "kills", "p50 ms", "p95 ms"), rows))
    print(
        f"\n{given.adopt} workers adopted by a new host agent: {statistics.median(times):.2f} s (median of 3)"
    )


if __name__ == "__main__":
    main()
