"""Kills the API while many stream clients read, and counts what each of them lost or got twice.

Every client reads all events over its own WebSocket connection and continues after its last cursor. The
result must be 0 lost and 0 repeated.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from common import machine
from support.fleet import Fleet
from support.resuming import ResumeTrial
from support.servers import RedisServer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--within", type=float, default=1_800, help="seconds")
    parser.add_argument("--seed", type=int, default=15)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wm-") as name:
        directory = Path(name)
        (directory / "redis").mkdir()
        redis = RedisServer(directory / "redis")
        fleet = Fleet(directory, redis)
        try:
            trial = ResumeTrial(
                fleet, clients=asked.clients, events=asked.events, kills=asked.kills, seed=asked.seed
            )
            found = trial.run(
                within=asked.within, clock=time.monotonic, say=lambda text: print(text, flush=True)
            )
        finally:
            fleet.close()
            redis.close()
    print(f"{machine()}\n")
    print("| clients | events each | kills | lost | repeated | connections | refused | s |")
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| {found.clients} | {found.events:,} | {found.kills} | {found.lost} | {found.repeated} "
        f"| {found.connections:,} | {found.refused:,} | {found.seconds:.0f} |"
    )
    return 1 if found.lost or found.repeated else 0


if __name__ == "__main__":
    sys.exit(main())
