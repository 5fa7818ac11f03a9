"""Compares the restart of a killed program with supervisord.

The program records when it starts, by the same clock in both cases. It runs long enough before each kill that
no restart includes a backoff.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from common import fleet, machine, service_of, table
from support.fleet import SIGKILL
from support.waiting import eventually

#: Appends its pid and start time to a file, and runs until a signal.
PROGRAM = """
import os, sys, time
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()} {time.monotonic()}\\n")
print("ready", flush=True)
while True:
    time.sleep(60)
"""
#: Seconds between a start and the next kill: more than the account's `healthy_after_seconds`.
PAUSE = 1.6


def kills(starts: Path, count: int) -> list[float]:
    """Kill the program `count` times.

    Return the seconds from each kill to the start of the next program.
    """
    eventually(starts.exists, within=30, what="the program runs")
    times = []
    for _ in range(count):
        # Random, so that it does not coincide with a supervisor's timer.
        time.sleep(PAUSE + random.random())
        before = starts.read_text()
        began = time.monotonic()
        os.kill(int(before.splitlines()[-1].split()[0]), SIGKILL)
        eventually(partial(_longer, starts, before), within=60)
        times.append(float(starts.read_text()[len(before) :].split()[1]) - began)
    return times


def _longer(starts: Path, before: str) -> bool:
    return starts.read_text().count("\n") > before.count("\n")


def by_the_host(count: int) -> list[float]:
    with fleet() as found:
        starts = found.paths.root / "starts"
        found.add_account(
            "account-001",
            None,
            gateway="command",
            server=None,
            password=None,
            currencies=None,
            command=[sys.executable, "-c", PROGRAM, str(starts)],
            ready={"line": "ready"},
            recovery={"max_restarts": count + 10, "healthy_after_seconds": 1.0},
        )
        service_of(found).start_worker_from_config("account-001")
        return kills(starts, count)


def by_supervisord(binary: str, count: int) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="wm-") as name:
        directory = Path(name)
        (directory / "program.py").write_text(PROGRAM)
        starts = directory / "starts"
        (directory / "supervisord.conf").write_text(
            f"[supervisord]\nnodaemon=true\nlogfile={name}/log\npidfile={name}/pid\nchildlogdir={name}\n"
            f"[program:one]\ncommand={sys.executable} {name}/program.py {starts}\n"
            "startsecs=0\nautorestart=true\nstopasgroup=true\nkillasgroup=true\n"
        )
        process = subprocess.Popen(
            [binary, "-c", str(directory / "supervisord.conf")], stdout=subprocess.DEVNULL
        )
        try:
            return kills(starts, count)
        finally:
            process.terminate()
            process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--supervisord", metavar="PATH", help="The supervisord to compare with.")
    given = parser.parse_args()
    found = [("host agent", by_the_host(given.kills))]
    if given.supervisord:
        found.append(("supervisord", by_supervisord(given.supervisord, given.kills)))
    rows = [
        (
            name,
            len(times),
            f"{statistics.median(times) * 1000:.0f}",
            f"{statistics.quantiles(times, n=20)[-1] * 1000:.0f}",
        )
        for name, times in found
    ]
    print(f"{machine()}\n")
    print(table(("kill -9 of the program to its restart, by", "kills", "p50 ms", "p95 ms"), rows))


if __name__ == "__main__":
    main()
