"""Measures what the watch of limits costs a host with many idle workers.

The workers are processes forked from one that has loaded what workers load, with as much memory of their own;
they sleep. The watch runs in this process on a clock of its own, so that a minute of looks takes seconds. Its
CPU time includes that of the kernel, which reads the processes' memory maps.
"""

import argparse
import importlib
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import machine, table
from support.waiting import eventually

from manager.config.models_limits import LimitsConfig
from manager.fleet.desired import DesiredState
from manager.fleet.event_types import Remark
from manager.host.limits.enforcement import Enforcement, Mechanism
from manager.host.limits.processes import pss_of, resident_of
from manager.host.limits.watch import LOOK_SECONDS, LimitWatch
from manager.host.workers.limit_actions import Limited
from manager.host.workers.records import WorkerRecord
from manager.models import utc_now
from manager.session.rehearsal import rehearse
from manager.system.processes import ProcessRef, raise_file_limit

assert sys.platform == "linux", "it reads /proc"

from manager.host.forkserver import PRELOADED  # noqa: E402

#: Bytes that a worker has of its own.
OWN = 8 << 20
LIMITS: Mapping[str, Mapping[str, Any]] = {
    "memory, CPU, processes": {"memory_mb": 400, "memory_hard_mb": 600, "cpu_percent": 90, "processes": 8},
    "and open files": {
        "memory_mb": 400,
        "memory_hard_mb": 600,
        "cpu_percent": 90,
        "processes": 8,
        "open_files": 1024,
    },
    "memory maps read each minute": {"memory_mb": 50, "cpu_percent": 90},
}


@contextmanager
def idle_workers(count: int) -> Iterator[list[ProcessRef]]:
    """Fork workers that sleep."""
    for module in PRELOADED:
        importlib.import_module(module)
    rehearse()
    pids: list[int] = []
    try:
        for _ in range(count):
            pid = os.fork()
            if pid == 0:
                kept = bytearray(OWN)
                for place in range(0, OWN, 4096):
                    kept[place] = 1
                signal.pause()
                os._exit(0)
            pids.append(pid)
        own = [pids[0], pids[-1]]
        eventually(lambda: min(pss_of(pid) or 0 for pid in own) >= OWN, within=60, what="the workers idle")
        yield [found for found in map(ProcessRef.of, pids) if found is not None]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        for pid in pids:
            os.waitpid(pid, 0)


class Workers:
    """The parts of a host that the watch uses."""

    def __init__(self, processes: list[ProcessRef], limits: Mapping[str, Any]) -> None:
        config = LimitsConfig.model_validate({"on_exceed": "warn", **limits})
        self._limited = [Limited(_record(number, one), config) for number, one in enumerate(processes)]
        self.exceeded = 0

    def limited(self) -> list[Limited]:
        return self._limited

    def worker_ids(self) -> set[str]:
        return {one.record.worker_id for one in self._limited}

    def shared_bytes(self) -> int:
        return resident_of(os.getpid())

    def open_positions(self, record: WorkerRecord) -> int | None:
        del record
        return 0

    def note(self, record: WorkerRecord, exceeded: Mapping[str, str], change: Remark) -> None:
        del record, exceeded
        self.exceeded += change.type == "limit.exceeded"

    def why_not_end(self, account_id: str, *, restarts: bool) -> str | None:
        raise AssertionError(f"{account_id}: nothing is ended here, {restarts}")

    def pause(self, account_id: str, *, token: str, by: str) -> DesiredState | None:
        raise AssertionError(f"{account_id}: nothing is paused here, {token}, {by}")


def _record(number: int, process: ProcessRef) -> WorkerRecord:
    return WorkerRecord(
        worker_id=f"w-{number:016x}",
        account_id=f"account-{number:04d}",
        claims=(),
        epoch=0,
        lease_seconds=0,
        generation=0,
        process=process,
        control_address="",
        control_token="",
        beat_file=Path(os.devnull),
        gateway="paper",
        config_version="",
        software_version="",
        stop_timeout_seconds=30,
        hang_after_seconds=30,
        created_at=utc_now(),
    )


def cpu_milliseconds(processes: list[ProcessRef], limits: Mapping[str, Any], minutes: int) -> list[float]:
    """Return the CPU milliseconds a second of each minute of looks; the first minute is left out."""
    now = 0.0
    workers: Any = Workers(processes, limits)
    watch = LimitWatch(workers, Enforcement(Mechanism(name="watched")), workers, clock=lambda: now)
    found = []
    try:
        for _ in range(minutes + 1):
            began = time.process_time()
            for _ in range(round(60 / LOOK_SECONDS)):
                now += LOOK_SECONDS
                watch.look()
                # Waiting costs CPU time too, so it is rare.
                while any(one.busy for one in watch._watched.values()):
                    time.sleep(0.01)
            found.append(1000 * (time.process_time() - began) / 60)
    finally:
        watch.close()
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--minutes", type=int, default=5)
    options = parser.parse_args()
    raise_file_limit()
    rows = []
    with idle_workers(options.workers) as processes:
        pss = sum(pss_of(one.pid) or 0 for one in processes[:20]) / 20 / (1 << 20)
        rss = resident_of(processes[0].pid) / (1 << 20)
        for name, limits in LIMITS.items():
            costs = cpu_milliseconds(processes, limits, options.minutes)
            rows.append((name, f"{statistics.median(costs):.1f}", f"{max(costs):.1f}"))
    print(
        f"{machine()}\n\n{options.workers} idle workers, {pss:.1f} MB of PSS and {rss:.1f} MB of RSS each\n"
    )
    print(table(("limits of each", "CPU ms a second, median minute", "worst minute"), rows))


if __name__ == "__main__":
    main()
