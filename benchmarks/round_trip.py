"""Compares a command's round trip with a Celery no-op, alternately."""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from common import fleet, machine, start_noop, table
from pydantic import SecretStr

from manager.factory import build_service
from manager.settings import Settings


def milliseconds(call: Callable[[], Any], count: int) -> list[float]:
    found = []
    for _ in range(count):
        began = time.perf_counter()
        call()
        found.append((time.perf_counter() - began) * 1000)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    given = parser.parse_args()
    with fleet() as found:
        settings = Settings(
            redis_url=SecretStr(found.redis.url),
            config_dir=found.config_dir,
            state_dir=found.paths.root,
            host=found.host,
        )
        noop = start_noop(found)
        found.add_account("account-001", 5001)
        service = build_service(settings)
        service.start_worker_from_config("account-001")
        bare: list[float] = []
        ours: list[float] = []
        for _ in range(10):
            bare += milliseconds(lambda: noop.apply_async().get(timeout=20), given.count // 10)
            ours += milliseconds(lambda: service.start_worker_from_config("account-001"), given.count // 10)
    rows = [
        (name, f"{statistics.median(times):.2f}", f"{statistics.quantiles(times, n=20)[-1]:.2f}")
        for name, times in (("Celery no-op", bare), ("start of a running worker", ours))
    ]
    print(f"{machine()}; {given.count} each, in turns of {given.count // 10}\n")
    print(table(("round trip", "p50 ms", "p95 ms"), rows))


if __name__ == "__main__":
    main()
