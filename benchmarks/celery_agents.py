"""Celery workers for Flower to show, without tasks to run: they send events and answer its inspection."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

from celery.events import EventDispatcher
from fake_fleet import settings_of

from manager.client.celery_app import sender_app
from manager.fleet import celery_url

#: What a worker of one queue answers to each inspection of Flower's.
_ANSWERS: Final[dict[str, Any]] = {
    "stats": {
        "total": {"tasks.start_worker": 200},
        "pid": 4711,
        "clock": "1000",
        "uptime": 3600,
        "pool": {"max-concurrency": 32, "threads": 32},
        "broker": {"transport": "redis", "hostname": "localhost", "port": 6379, "virtual_host": "0"},
        "prefetch_count": 32,
        "rusage": {"utime": 1.5, "stime": 0.5, "maxrss": 90_000},
    },
    "active_queues": [
        {"name": "host", "exchange": {"name": "host", "type": "direct"}, "routing_key": "host"}
    ],
    "registered": [
        f"tasks.{name}" for name in ("start_worker", "stop_worker", "restart_worker", "get_worker")
    ],
    "scheduled": [],
    "active": [],
    "reserved": [],
    "revoked": [],
    "conf": {"task_default_queue": "host", "timezone": "UTC", "task_serializer": "json"},
}


class CeleryAgents:
    """Stands for one Celery worker on each host. A context manager: it answers on a thread."""

    def __init__(self, url: str, accounts: Mapping[str, Sequence[str]]) -> None:
        """`accounts` are the tasks that each worker has run, by host."""
        self._app = sender_app(celery_url(settings_of(url)))
        self._accounts = accounts
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._answer, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def send_tasks(self) -> None:
        """Send the events of one task for each account."""
        with self._app.connection_for_write() as connection:
            for host, accounts in self._accounts.items():
                events = EventDispatcher(connection, hostname=f"agent@{host}", app=self._app)
                events.send("worker-online", freq=2.0, sw_ident="py-celery", sw_ver="5.7.0", sw_sys="Linux")
                for one in accounts:
                    events.send("task-received", uuid=one, name="tasks.start_worker", args="()", kwargs="{}")
                    events.send("task-started", uuid=one)
                    events.send("task-succeeded", uuid=one, runtime=0.1, result="''")
                events.close()

    def _answer(self) -> None:
        def handler(name: str) -> Callable[..., Any]:
            return lambda _state, **_arguments: _ANSWERS[name]

        with self._app.connection_for_read() as connection:
            for host in self._accounts:
                node = self._app.control.mailbox.Node(
                    f"agent@{host}",
                    handlers={name: handler(name) for name in _ANSWERS},
                    channel=connection.channel(),
                )
                node.listen(callback=node.handle_message)
            while not self._ended.is_set():
                try:
                    connection.drain_events(timeout=0.5)
                except TimeoutError:
                    continue
