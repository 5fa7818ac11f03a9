"""Shared code of the benchmarks: a fleet, medians, tables."""

import platform
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from pydantic import SecretStr
from support.fleet import PASSWORD, Fleet
from support.ports import free_port
from support.servers import RedisServer
from support.waiting import eventually

from manager.client.celery_app import sender_app
from manager.config import ConfigurationService
from manager.factory import build_service
from manager.fleet import celery_url
from manager.service import WorkerManagerService
from manager.session.launch_spec import LaunchSpec
from manager.settings import Settings

_NOOP = """
from celery import Celery
app = Celery("noop", broker={url!r}, backend={url!r})
app.conf.task_default_queue = "noop"
@app.task(name="noop")
def noop():
    return None
"""


@contextmanager
def fleet(
    environment: Mapping[str, str] | None = None, *, server: str | None = None, tcp: bool = False
) -> Iterator[Fleet]:
    """A temporary fleet with Redis, a paper venue and a host agent.

    `server` is a server program, by default that of the tests. With `tcp` it also listens on loopback.
    """
    directory = Path(tempfile.mkdtemp(prefix="wm-"))
    (directory / "redis").mkdir()
    listening = ["--port", str(free_port()), "--bind", "127.0.0.1"] if tcp else []
    redis = RedisServer(directory / "redis", *listening, binary=server)
    found = Fleet(directory, redis, host="bench")
    found.extra_environment |= environment or {}
    try:
        found.start_venue()
        found.start_agent()
        yield found
    finally:
        found.close()
        redis.close()
        shutil.rmtree(directory, ignore_errors=True)


def start_noop(found: Fleet) -> Any:
    """Start a Celery worker with one no-op task on the fleet's broker.

    Return its signature.
    """
    url = celery_url(Settings(redis_url=SecretStr(found.redis.url)))
    (found.paths.root / "noop_app.py").write_text(_NOOP.format(url=url))
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
    noop = sender_app(url).signature("noop", queue="noop")
    eventually(lambda: noop.apply_async().get(timeout=20) is None, within=30)
    return noop


def sessions_of(found: Fleet) -> tuple[int, int, int]:
    """Return the venue's counts of sessions: all, live, and overlapping."""
    with found.admin() as admin:
        accounts = admin.accounts()
        live = len(admin.stats()["live"])
    return sum(one["logins"] for one in accounts), live, sum(one["overlaps"] for one in accounts)


def service_of(found: Fleet) -> WorkerManagerService:
    """Return a service that sends commands to the fleet."""
    return build_service(
        Settings(
            redis_url=SecretStr(found.redis.url),
            config_dir=found.config_dir,
            state_dir=found.paths.root,
            host=found.host,
        )
    )


def popen_worker(spec: LaunchSpec) -> "subprocess.Popen[bytes]":
    """Start the worker program in a new interpreter."""
    child = subprocess.Popen(
        [sys.executable, "-m", "manager.session"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert child.stdin is not None
    child.stdin.write(spec.to_json())
    child.stdin.flush()
    return child


def worker_spec(found: Fleet, configuration: ConfigurationService, account_id: str) -> LaunchSpec:
    worker_id = f"p-{secrets.token_hex(8)}"
    run = found.paths.run_dir
    return LaunchSpec(
        worker_id=worker_id,
        config=configuration.load_account_config(account_id),
        password=SecretStr(PASSWORD),
        redis_url=SecretStr(found.redis.url),
        host="popen",
        home="",
        claims=(),
        epoch=0,
        lease_seconds=0.0,
        leased_at=0.0,
        venue_address=f"unix:{found.paths.venue_socket}",
        log_file=found.paths.worker_log(account_id),
        beat_file=run / f"{worker_id}.beat",
        private_dir=run / f"{worker_id}.d",
        directory=None,
        control_address=str(run / f"{worker_id}.sock"),
        control_token=SecretStr(secrets.token_hex(8)),
        heartbeat_interval_seconds=1.0,
        log_level="INFO",
        log_json=False,
    )


def pss_megabytes(pids: Sequence[int]) -> float:
    """Return the mean proportional set size (PSS) of processes in MB."""
    sizes = [int(getattr(psutil.Process(pid).memory_full_info(), "pss", 0)) for pid in pids]
    return statistics.fmean(sizes) / 1e6


def machine() -> str:
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{psutil.cpu_count()} cores, {memory:.0f} GiB, "
        f"{platform.system()} {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)
