"""Settings that avoid known traps of Celery on Redis; see docs/decisions/002-celery-settings.md."""

import base64
import json
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr
from support.servers import RedisServer
from support.waiting import eventually

from manager.client.celery_app import celery_settings, sender_app
from manager.client.celery_pool import CeleryWorkerPool
from manager.errors import CommandTimeoutError
from manager.fleet import fleet_url
from manager.fleet.batches import BatchStore
from manager.fleet.desired_store import DesiredStore
from manager.fleet.leases import LeaseStore
from manager.models import WorkerInfo
from manager.placement.engine import HostFacts
from manager.pool.protocol import StartRequest
from manager.settings import Settings
from manager.states import WorkerLifecycleStatus


def test_trap_nothing_is_ever_unacknowledged_in_an_agent() -> None:
    settings = celery_settings()
    assert settings.task_acks_late is False
    assert settings.worker_disable_prefetch is True
    assert settings.worker_cancel_long_running_tasks_on_connection_loss is False


def test_trap_few_threads_stall_with_prefetch_off() -> None:
    assert Settings().agent_threads >= 32
    with pytest.raises(ValueError, match="greater than or equal to 32"):
        Settings(agent_threads=31)


def test_trap_a_pickle_is_code() -> None:
    settings = celery_settings()
    assert settings.accept_content == settings.result_accept_content == ["json"]


def test_trap_arguments_are_not_stored_with_results() -> None:
    assert celery_settings().result_extended is False


def test_trap_an_outage_must_not_hang_a_sender() -> None:
    settings = celery_settings()
    assert settings.task_publish_retry_policy["max_retries"] <= 3
    assert settings.result_backend_transport_options["retry_policy"]["max_retries"] <= 3
    assert settings.broker_transport_options["socket_connect_timeout"] <= 3
    assert settings.broker_connection_max_retries is None


class LiveHost:
    """A fleet with one live host that never answers, and an account that runs there."""

    url = "redis://nowhere"

    def snapshot(self, account_ids: list[str]) -> tuple[list[Any], list[WorkerInfo]]:
        host = SimpleNamespace(name="h1", live=True, facts=HostFacts(name="h1"))
        there = WorkerInfo(
            worker_id="w",
            account_id="there",
            status=WorkerLifecycleStatus.RUNNING,
            metadata={"host": "h1"},
        )
        return [host], [there] if "there" in account_ids else []

    def get_worker(self, account_id: str) -> WorkerInfo | None:
        """No record shows the outcome of a command without a result."""
        del account_id
        return None


@pytest.fixture
def pool(redis_server: RedisServer) -> CeleryWorkerPool:
    url = fleet_url(Settings(redis_url=SecretStr(redis_server.url)))
    store: Any = LiveHost()
    return CeleryWorkerPool(
        sender_app(url),
        store,
        DesiredStore(redis_server.url),
        LeaseStore(redis_server.url),
        BatchStore(redis_server.url),
        command_timeout_seconds=1.0,
    )


def _message(server: RedisServer, queue: str) -> dict[str, Any]:
    with server.client() as client:
        raw = eventually(lambda: client.lpop(queue), what=f"a message on {queue}")
    found: dict[str, Any] = json.loads(raw)
    return found


def _in_background(call: Any) -> threading.Thread:
    def run() -> None:
        with pytest.raises(CommandTimeoutError):
            call()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_trap_a_start_expires_and_a_stop_never_does(
    pool: CeleryWorkerPool, redis_server: RedisServer
) -> None:
    request = StartRequest("there", True, True, lambda: pytest.fail("the host prepares it"))
    for call, expires in (
        (lambda: pool.start_worker(request), True),
        (lambda: pool.stop_worker("there"), False),
    ):
        thread = _in_background(call)
        message = _message(redis_server, "host.h1")
        thread.join()
        assert (message["headers"]["expires"] is not None) is expires
        if expires:
            # A host whose clock is hours ahead of the manager's must not find it expired.
            left = datetime.fromisoformat(message["headers"]["expires"]) - datetime.now(UTC)
            assert left > timedelta(hours=12)
        # An ETA would leave it unacknowledged in the agent until then.
        assert message["headers"]["eta"] is None
        assert json.loads(base64.b64decode(message["body"]))[0] == ["there"]


def test_trap_pending_proves_nothing_so_a_caller_has_a_deadline(
    pool: CeleryWorkerPool, redis_server: RedisServer
) -> None:
    request = StartRequest("elsewhere", True, True, lambda: pytest.fail("the host prepares it"))
    with pytest.raises(CommandTimeoutError, match=r"may still be carried out.*manager info elsewhere"):
        pool.start_worker(request)
    # The account's host is unknown: the shared queue, as for a plain Celery client.
    assert _message(redis_server, "celery")["headers"]["task"] == "tasks.start_worker"
