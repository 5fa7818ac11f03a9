"""A command's round trip over Redis and the host agent, against a bare Celery no-op on the same broker, in turn."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import fleet, machine, table
from pydantic import SecretStr
from support.waiting import eventually

from manager.celery_app import sender_app
from manager.factory import build_service
from manager.fleet import celery_url
from manager.settings import Settings

_NOOP = """
from celery import Celery
app = Celery("noop", broker={url!r}, backend={url!r})
app.conf.task_default_queue = "noop"
@app.task(name="noop")
def noop():
    return None
"""


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
        url = celery_url(settings)
        Path(found.paths.root / "noop_app.py").write_text(_NOOP.format(url=url))
        found.spawn(
            *(sys.executable, "-m", "celery", "--workdir", str(found.paths.root), "-A", "noop_app", "worker"),
            *(
                "-P",
                "threads",
                "-c",
                "32",
                "-Q",
                "noop",
                "-n",
                "noop@bench",
                "--without-gossip",
                "--without-mingle",
            ),
            log="noop",
        )
        app = sender_app(url)
        noop = app.signature("noop", queue="noop")
        eventually(lambda: noop.apply_async().get(timeout=20) is None, within=30)
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
        for name, times in (("Celery no-op", bare), ("start of what runs already", ours))
    ]
    print(f"{machine()}; {given.count} each, in turns of {given.count // 10}\n")
    print(table(("round trip", "p50 ms", "p95 ms"), rows))


if __name__ == "__main__":
    main()
