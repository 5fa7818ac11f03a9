"""Runs the API server: checks settings, builds the app, serves."""

import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, Final

import redis
import uvicorn
from fastapi import FastAPI

from manager.aio import AsyncWorkerManagerService
from manager.api.app import create_app
from manager.api.auth import Authenticator
from manager.api.commands import CommandRunner
from manager.api.connections import OncePerMinute, connection_class
from manager.api.limits import RateLimiter, scaled
from manager.api.metrics_page import MetricsPage
from manager.api.parts import ApiParts
from manager.api.stream.connection import MAX_MESSAGE
from manager.api.stream.hub import Hub
from manager.client.batch_checks import BatchChecks
from manager.client.celery_pool import CeleryWorkerPool
from manager.doctor import run_checks
from manager.errors import ComponentError, FleetUnavailableError, SettingsError
from manager.factory import (
    account_files,
    audit_trail,
    celery_worker_pool,
    config_store,
    configuration,
    desired_store,
    fleet_approvals,
    fleet_hosts,
    fleet_rollouts,
    fleet_schedules,
    fleet_store,
)
from manager.fleet import fleet_url
from manager.fleet.address import parse_redis_url
from manager.fleet.api_commands import CommandRecords
from manager.fleet.api_sessions import SessionStore
from manager.fleet.batch_events import BatchAnnouncer
from manager.fleet.batches import BatchStore
from manager.fleet.host_events import HostAnnouncer
from manager.fleet.live_reads import LiveReads
from manager.fleet.pools import make_pool
from manager.fleet.redis_client import translated
from manager.fleet.tokens import TokenStore
from manager.service import WorkerManagerService
from manager.settings import Settings
from manager.system import atomic_file
from manager.system.processes import raise_file_limit
from manager.telemetry.fleet_reader import ViewReader
from manager.telemetry.view import FleetView, ViewUpdate

#: Seconds in which open requests may end after SIGTERM.
_GRACE_SECONDS: Final = 5
_KEEP_ALIVE_SECONDS: Final = 30
#: Maximum connections that wait to be accepted, and maximum concurrent requests.
_BACKLOG: Final = 512
_AT_ONCE: Final = 2000
#: Timeout of a ping to Redis, and the age of the view at which the server is not ready; seconds.
_PING_SECONDS: Final = 2.0
_READY_SECONDS: Final = 10.0
#: Minimum length of the metrics token, in characters.
_LEAST_TOKEN: Final = 24
#: Seconds between two pings to a stream client, and seconds in which it must answer.
_PING_EVERY_SECONDS: Final = 20.0
_PONG_SECONDS: Final = 25.0


def run_api(settings: Settings, port: int | None = None, address_file: Path | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code.

    Writes the URL to `address_file` once it listens. Raises SettingsError, ComponentError.
    """
    check_listening(settings)
    raise_file_limit()
    listener = _listen(settings.api_address, settings.api_port if port is None else port)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(OncePerMinute())
    reads = LiveReads(fleet_url(settings), events_kept=settings.events_kept)
    view = FleetView(reads, desired_store(settings), stale_after_seconds=settings.stale_after_seconds)
    app = build_app(settings, view)
    secure = settings.api_tls_cert is not None
    config = uvicorn.Config(
        app,
        http=connection_class(),
        loop="asyncio" if sys.platform == "win32" else "uvloop",
        ws="websockets-sansio",
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=_PING_EVERY_SECONDS,
        ws_ping_timeout=_PONG_SECONDS,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=settings.api_proxy,
        forwarded_allow_ips="127.0.0.1,::1",
        ssl_certfile=settings.api_tls_cert,
        ssl_keyfile=settings.api_tls_key,
        limit_concurrency=_AT_ONCE,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    host, number = listener.getsockname()[:2]
    where = f"[{host}]" if ":" in host else host
    url = f"{'https' if secure else 'http'}://{where}:{number}"
    sys.stdout.write(f"API on {url}/api/v1\n")
    sys.stdout.flush()
    if address_file is not None:
        atomic_file.write(address_file, url.encode())
    server = _Server(config)
    server.run(sockets=[listener])
    # Threads may still wait for the answers to commands. The commands continue without this process.
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    os._exit(0 if server.started else 1)


def check_listening(settings: Settings) -> None:
    """Check the address and the TLS files. Raises SettingsError."""
    if (settings.api_tls_cert is None) != (settings.api_tls_key is None):
        raise SettingsError(
            "MANAGER_API_TLS_CERT and MANAGER_API_TLS_KEY belong together: set both, or neither"
        )
    for name, path in (("CERT", settings.api_tls_cert), ("KEY", settings.api_tls_key)):
        if path is not None and not os.access(path, os.R_OK):
            raise SettingsError(f"MANAGER_API_TLS_{name}: {path} cannot be read")
    if settings.api_tls_cert is None and not settings.api_proxy and not _is_loopback(settings.api_address):
        raise SettingsError(
            f"MANAGER_API_ADDRESS={settings.api_address} is reachable from other machines, and tokens would "
            "cross the network unencrypted: set MANAGER_API_TLS_CERT and MANAGER_API_TLS_KEY, or "
            "MANAGER_API_PROXY=true behind a proxy that does TLS"
        )


def build_app(settings: Settings, view: FleetView) -> FastAPI:
    """Return the app for these settings; it starts and closes the view."""
    url = fleet_url(settings)
    files = configuration(settings)
    pool: CeleryWorkerPool = celery_worker_pool(settings, files)
    service = WorkerManagerService(files, pool)
    store = fleet_store(settings)
    reader = ViewReader(view, lambda: account_files(service))
    hub = Hub(reader, store.stream)
    announcer = HostAnnouncer(store)
    names = {*settings.api_hosts, settings.api_address}
    if not _is_loopback(settings.api_address):
        names |= {socket.gethostname(), socket.getfqdn()}
    parts = ApiParts(
        service=service,
        aio=AsyncWorkerManagerService(service),
        reader=reader,
        hub=hub,
        events=store.stream,
        metrics=MetricsPage(reader, store.stream, settings.metrics_accounts),
        authenticator=Authenticator(
            TokenStore(url), SessionStore(url), metrics_token=_metrics_token(settings)
        ),
        hosts=fleet_hosts(settings),
        schedules=fleet_schedules(settings),
        rollouts=fleet_rollouts(settings),
        approvals=fleet_approvals(settings),
        audit=audit_trail(settings),
        batches=pool,
        checks=BatchChecks(BatchStore(url), BatchAnnouncer(store)),
        versions=config_store(settings),
        doctor=lambda: run_checks(settings),
        ready=lambda: _require_ready(url, view),
        commands=CommandRunner(CommandRecords(url), pool.answer_of),
        origins=settings.api_origins,
        limiter=RateLimiter(scaled(settings.api_rate_factor)),
        host_names=frozenset(f"[{name}]" if ":" in name else name for name in names),
        secure_cookies=settings.api_tls_cert is not None or settings.api_proxy,
    )

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        view.subscribe(lambda update: _announce(announcer, view, update))
        view.start()
        hub.start()
        yield
        hub.close()
        view.close()

    return create_app(parts, lifespan)


def _announce(announcer: HostAnnouncer, view: FleetView, update: ViewUpdate) -> None:
    """Write events about lost and drained hosts. Runs on the view's thread."""
    if not update.changes.hosts:
        return
    with view.reading() as state:
        hosts = [state.hosts[name] for name in update.changes.hosts if name in state.hosts]
    with contextlib.suppress(FleetUnavailableError):  # another process, or the housekeeping, writes them
        announcer.announce(hosts)


class _Server(uvicorn.Server):
    """Exits cleanly at the first SIGTERM or Ctrl-C.

    uvicorn's own handler raises the signal again after the shutdown.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._end) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.handle_exit(number, frame)


def _metrics_token(settings: Settings) -> str:
    """Return the token in MANAGER_METRICS_TOKEN_FILE, or an empty string.

    Raises SettingsError.
    """
    path = settings.metrics_token_file
    if path is None:
        return ""
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"MANAGER_METRICS_TOKEN_FILE: {path} cannot be read: {error}") from None
    if len(text) < _LEAST_TOKEN:
        raise SettingsError(
            f"MANAGER_METRICS_TOKEN_FILE: the token in {path} is shorter than {_LEAST_TOKEN} characters; "
            "`openssl rand -hex 32` makes one"
        )
    return text


def _require_ready(url: str, view: FleetView) -> None:
    """Check that Redis answers on a new connection and the view is fresh.

    Raises FleetUnavailableError.
    """
    pool = make_pool(
        parse_redis_url(url),
        size=1,
        wait_seconds=_PING_SECONDS,
        socket_connect_timeout=_PING_SECONDS,
        socket_timeout=_PING_SECONDS,
    )
    client: Any = redis.Redis(connection_pool=pool)
    try:
        with translated(url):
            client.ping()
    finally:
        pool.disconnect()
    if view.age_seconds > _READY_SECONDS:
        raise FleetUnavailableError(f"the fleet was last read from Redis {view.age_seconds:.0f} s ago")


def _listen(address: str, port: int) -> socket.socket:
    """Return the listening socket. Raises ComponentError."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ComponentError(
            f"the API cannot listen on {address}:{port}: {error.strerror or error}; set MANAGER_API_ADDRESS "
            "or MANAGER_API_PORT to another address or port"
        ) from None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"
