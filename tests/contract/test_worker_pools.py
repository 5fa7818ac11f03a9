"""The WorkerPool contract, for the host's pool, the Celery pool and the fake pool."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fleet import PASSWORD, Fleet
from support.pool_host import Host
from support.servers import RedisServer
from support.waiting import eventually

from manager.config import ConfigurationService
from manager.errors import AuthenticationRefusedError
from manager.factory import celery_worker_pool
from manager.pool.contract import WorkerPoolContract
from manager.pool.protocol import StartRequest, WorkerPool
from manager.pool.start_requests import StartRequestFactory
from manager.pool.testing import FakePool
from manager.settings import Settings
from manager.testing import MemoryConfigs
from manager.validation import AccountConfigs

#: Fields of each account's file in addition to a valid minimum.
ACCOUNTS: dict[str, dict[str, Any]] = {
    "good-1": {"groups": ["desk"], "labels": {"book": "7"}},
    "good-2": {},
    "good-3": {},
    "off": {"enabled": False},
    "bad": {"default_risk": {"max_positions": 0, "max_concurrent_trades": 0}},
    "refused": {},
}
_FIRST_LOGIN = 5001
#: The venue has this account, with another password.
_REFUSED_LOGIN = _FIRST_LOGIN + list(ACCOUNTS).index("refused")

Write = Callable[..., None]


class Case:
    """One test's view of a pool that all tests of a class share."""

    def __init__(self, pool: WorkerPool, configs: AccountConfigs, write: Write) -> None:
        self.pool = pool
        self._requests = StartRequestFactory(configs)
        self._write = write
        for number, (account_id, keys) in enumerate(ACCOUNTS.items(), _FIRST_LOGIN):
            write(account_id, number, **keys)

    def request(self, account_id: str) -> StartRequest:
        return self._requests.start_request(account_id)

    def spoil(self, account_id: str) -> None:
        self._write(account_id, _FIRST_LOGIN, **ACCOUNTS[account_id], **ACCOUNTS["bad"])

    def stop_everything(self) -> None:
        result = self.pool.stop_many(self.pool.stoppable())
        assert result.ok, result
        eventually(lambda: not any(self.pool.has_worker_for_account(name) for name in ACCOUNTS))


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="wm-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def host(directory: Path) -> Iterator[Host]:
    (directory / "host").mkdir()
    host = Host(directory / "host")
    with host.venue.admin() as admin:
        admin.create_account("Paper-1", _REFUSED_LOGIN, "another password")
    yield host
    host.close()


@pytest.fixture(scope="module")
def fleet(directory: Path) -> Iterator[Fleet]:
    (directory / "redis").mkdir()
    server = RedisServer(directory / "redis")
    fleet = Fleet(directory / "fleet", server)
    fleet.start_venue()
    with fleet.admin() as admin:
        admin.create_account("Paper-1", _REFUSED_LOGIN, f"not {PASSWORD}")
    fleet.start_agent()
    yield fleet
    fleet.close()
    server.close()


class TestFakePool(WorkerPoolContract):
    @pytest.fixture
    def case(self) -> Case:
        configs = MemoryConfigs({})

        def write(account_id: str, login: int, **keys: Any) -> None:
            configs.accounts[account_id] = {"login": login, **keys}

        pool = FakePool()
        for _ in range(3):
            pool.fail_next("refused", AuthenticationRefusedError("refused: invalid login or password"))
        return Case(pool, configs, write)


class TestLocalPool(WorkerPoolContract):
    @pytest.fixture
    def case(self, host: Host) -> Iterator[Case]:
        case = Case(host.pool, host.config_service, host.account)
        yield case
        case.stop_everything()


@pytest.mark.long
@pytest.mark.e2e
class TestCeleryPool(WorkerPoolContract):
    @pytest.fixture
    def case(self, fleet: Fleet) -> Iterator[Case]:
        settings = Settings(
            redis_url=fleet.redis.url,
            config_dir=fleet.config_dir,
            state_dir=fleet.paths.root,
            host=fleet.host,
        )
        pool = celery_worker_pool(settings)
        case = Case(pool, ConfigurationService(fleet.config_dir), fleet.add_account)
        yield case
        case.stop_everything()
