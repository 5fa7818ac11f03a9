"""Arguments are checked first: a command that raises InvalidPayloadError has changed nothing."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.configs import GOOD, Directory
from support.servers import RedisServer

from manager.client.celery_pool import CeleryWorkerPool
from manager.config import ConfigurationService
from manager.errors import ManagerError
from manager.fleet import FleetStore
from manager.fleet.batches import BatchStore
from manager.fleet.desired_store import DesiredStore
from manager.fleet.leases import LeaseStore
from manager.service import WorkerManagerService

BAD_TIMEOUTS = [-1, -0.001, math.nan, math.inf, 86_401, "5", True, [1]]


@pytest.fixture
def service(tmp_path: Path, redis_server: RedisServer) -> WorkerManagerService:
    directory = Directory(tmp_path / "config")
    directory.write("account-001", GOOD)
    url = redis_server.url
    app: Any = SimpleNamespace()
    pool = CeleryWorkerPool(app, FleetStore(url), DesiredStore(url), LeaseStore(url), BatchStore(url))
    return WorkerManagerService(ConfigurationService(tmp_path / "config"), pool)


def nothing_was_written(redis_server: RedisServer) -> bool:
    with redis_server.client() as client:
        return not client.dbsize()


@pytest.mark.parametrize("timeout", BAD_TIMEOUTS)
def test_a_stop_with_an_invalid_timeout_stops_nothing(
    service: WorkerManagerService, redis_server: RedisServer, timeout: Any
) -> None:
    for call in (
        lambda: service.stop_worker("account-001", timeout),
        lambda: service.worker_pool.stop_worker("account-001", timeout),
        lambda: service.stop_all_workers(timeout),
        lambda: service.stop_all(timeout),
        lambda: service.worker_pool.stop_many(["account-001"], timeout),
    ):
        with pytest.raises(ManagerError, match="nothing was done") as raised:
            call()
        assert isinstance(raised.value, ValueError)
    assert nothing_was_written(redis_server)


@pytest.mark.parametrize("account_id", ["../x", "", "a b", 5, None, "x" * 65, "con"])
def test_an_invalid_account_id_is_refused_before_desired_state_is_written(
    service: WorkerManagerService, redis_server: RedisServer, account_id: Any
) -> None:
    for call in (
        lambda: service.stop_worker(account_id),
        lambda: service.start_worker_from_config(account_id),
        lambda: service.restart_worker(account_id),
        lambda: service.move_worker(account_id, "london-1"),
        lambda: service.worker_pool.stop_worker(account_id),
    ):
        with pytest.raises(ValueError, match="account id"):
            call()
    assert nothing_was_written(redis_server)


def test_flags_hosts_and_selections_are_checked(
    service: WorkerManagerService, redis_server: RedisServer
) -> None:
    wrong: Any = "no"
    for call in (
        lambda: service.start_worker_from_config("account-001", wrong),
        lambda: service.start_worker_from_config("account-001", True, wrong),
        lambda: service.start_all(wrong),
        lambda: service.start_all_enabled_workers(group=5),  # type: ignore[arg-type]
        lambda: service.stop_all_workers(labels=wrong),
        lambda: service.stop_all_workers(group=[1]),  # type: ignore[list-item]
        lambda: service.move_worker("account-001", "no host"),
        lambda: service.move_worker("account-001", "london-1", force=wrong),
    ):
        with pytest.raises(ValueError, match="nothing was done"):
            call()
    assert nothing_was_written(redis_server)
