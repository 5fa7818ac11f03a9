"""Injected parts: configuration service, validator and pool."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.configs import GOOD, Directory, config
from support.servers import RedisServer

from manager import AccountConfigurationValidator, WorkerManagerService, get_worker_manager_service
from manager.config import AccountConfig, ConfigurationService
from manager.errors import (
    AccountDisabledError,
    AccountNotFoundError,
    HostUnavailableError,
    InvalidConfigError,
    NoWorkerError,
)
from manager.factory import celery_worker_pool
from manager.fleet import FleetStore
from manager.fleet.desired_store import DesiredStore
from manager.host import build_pool
from manager.models import BatchResult, ValidationResult, WorkerInfo
from manager.placement.labels import Selection
from manager.pool.protocol import Batch, Progress, StartRequest
from manager.settings import Settings
from manager.states import WorkerLifecycleStatus
from manager.system.state_dir import StatePaths


class TwoMethods:
    """A configuration service with only the methods of the protocol."""

    def __init__(self, *configs: AccountConfig) -> None:
        self._configs = {one.account_id: one for one in configs}

    def load_account_config(self, account_id: str, apply_defaults: bool = True) -> AccountConfig:
        del apply_defaults
        if account_id == "broken":
            raise ValueError("its row cannot be read")
        if account_id not in self._configs:
            raise KeyError(account_id)
        return self._configs[account_id]

    def list_accounts(self) -> list[str]:
        return sorted([*self._configs, "broken"])


class OneMethod:
    """A validator with only the methods of the protocol."""

    def __init__(self, *refused: str) -> None:
        self.refused = set(refused)
        self.asked: list[str] = []

    def validate(self, config: AccountConfig) -> ValidationResult:
        self.asked.append(config.account_id)
        if config.account_id in self.refused:
            return ValidationResult(
                valid=False, account_id=config.account_id, errors=("the desk says no",), warnings=("careful",)
            )
        return ValidationResult(valid=True, account_id=config.account_id)


class Refusing(AccountConfigurationValidator):
    """A typical subclass that adds a rule."""

    def validate(self, config: AccountConfig) -> ValidationResult:
        result = super().validate(config)
        return result.model_copy(update={"valid": False, "errors": (*result.errors, "the desk says no")})


class MemoryPool:
    """A pool that carries out commands in memory."""

    def __init__(self) -> None:
        self.workers: dict[str, WorkerInfo] = {}

    def start_worker(self, request: StartRequest) -> WorkerInfo:
        request.prepare()
        info = WorkerInfo(worker_id="w", account_id=request.account_id, status=WorkerLifecycleStatus.RUNNING)
        self.workers[request.account_id] = info
        return info

    restart_worker = start_worker

    def move_worker(
        self, account_id: str, host: str, *, force: bool = False, needs: Any = None
    ) -> WorkerInfo:
        del host, force
        assert needs is None or needs.account_id == account_id
        return self.workers[account_id]

    def stop_worker(self, account_id: str, timeout: float | None = None) -> bool:
        del timeout
        if self.workers.pop(account_id, None) is None:
            raise NoWorkerError(account_id)
        return True

    def start_many(
        self, requests: list[StartRequest], progress: Progress | None = None, batch: Batch | None = None
    ) -> BatchResult:
        del progress, batch
        done, failed = {}, {}
        for request in requests:
            try:
                done[request.account_id] = self.start_worker(request)
            except ValueError as error:
                failed[request.account_id] = str(error)
        return BatchResult(done=done, failed=failed)

    restart_many = start_many

    def stop_many(
        self,
        account_ids: list[str],
        timeout: float | None = None,
        progress: Progress | None = None,
        batch: Batch | None = None,
    ) -> BatchResult:
        del timeout, progress, batch
        return BatchResult(done={one: self.workers.pop(one) for one in account_ids})

    def validate_many(self, needs: Any) -> None:
        del needs

    def runs(self, account_id: str, last: int | None = None) -> list[Any]:
        return [account_id][:last]

    def stoppable(self) -> list[str]:
        return sorted(self.workers)

    def list_workers(self) -> list[WorkerInfo]:
        return list(self.workers.values())

    def get_worker_info(self, account_id: str) -> WorkerInfo | None:
        return self.workers.get(account_id)

    def has_worker_for_account(self, account_id: str) -> bool:
        return account_id in self.workers


GOLD = config(account_id="gold", login=1, groups=("desk",))
BAD = config(account_id="bad", login=2)
OFF = config(account_id="off", login=3, enabled=False)


@pytest.fixture
def validator() -> OneMethod:
    return OneMethod("bad")


@pytest.fixture
def service(validator: OneMethod) -> WorkerManagerService:
    pool: Any = MemoryPool()
    return get_worker_manager_service(TwoMethods(GOLD, BAD, OFF), pool, validator, singleton=False)


def test_one_account(service: WorkerManagerService, validator: OneMethod) -> None:
    assert service.start_worker_from_config("gold").status == "running"
    assert validator.asked == ["gold"]
    assert service.is_worker_running("gold")
    with pytest.raises(InvalidConfigError, match="the desk says no"):
        service.start_worker_from_config("bad")
    with pytest.raises(AccountDisabledError):
        service.start_worker_from_config("off")
    with pytest.raises(InvalidConfigError, match="its row cannot be read"):
        service.start_worker_from_config("broken")
    with pytest.raises(AccountNotFoundError):
        service.start_worker_from_config("nobody")
    asked = len(validator.asked)
    assert service.start_worker_from_config("bad", validate=False).status == "running"
    assert service.start_worker_from_config("bad", apply_defaults=False, validate=False).status == "running"
    assert len(validator.asked) == asked, "a start without validation does not call it"
    with pytest.raises(InvalidConfigError, match="the desk says no"):
        service.restart_worker("bad")
    assert service.restart_worker("gold").status == "running"
    assert service.move_worker("gold", "elsewhere").status == "running"
    assert service.stop_worker("gold") is True
    with pytest.raises(ValueError, match="gold"):
        service.stop_worker("gold")
    assert service.get_worker_info("gold") is None


def test_validation(service: WorkerManagerService) -> None:
    assert service.validate_config("gold").valid
    assert service.validate_config("bad").errors == ("the desk says no",)
    assert service.validate_config("bad").warnings == ("careful",)
    assert service.validate_config("broken").errors == ("broken: its row cannot be read",)
    with pytest.raises(AccountNotFoundError):
        service.validate_config("nobody")
    assert {key: one.valid for key, one in service.validate_all_configs().items()} == {
        "gold": True,
        "bad": False,
        "off": True,
        "broken": False,
    }
    desk = service.validate_all_configs(Selection.of("desk", None))
    assert set(desk) == {"gold", "broken"}, "an unreadable file may belong to the group"
    assert {key: one.valid for key, (_, one) in service.validate_on_hosts().items()}["bad"] is False
    assert service.validate_on_hosts(["gold"])["gold"][1].valid


def test_many_accounts(service: WorkerManagerService) -> None:
    assert service.enabled_accounts() == {"gold": True, "bad": True, "off": False, "broken": None}
    batch = service.start_all()
    assert (set(batch.done), set(batch.skipped)) == ({"gold"}, {"off"})
    assert set(batch.failed) == {"bad", "broken"}
    assert "the desk says no" in batch.failed["bad"]
    assert "its row cannot be read" in batch.failed["broken"]
    assert set(service.start_all_enabled_workers()) == {"gold"}
    assert set(service.start_all_enabled_workers(group="desk")) == {"gold"}
    assert set(service.restart_all().done) == {"gold"}
    assert [info.account_id for info in service.list_workers(Selection.of("desk", None))] == ["gold"]
    assert service.stop_all_workers(group="desk") == 1
    assert service.stop_all_workers() == 0


def test_a_validator_that_raises_refuses_the_account(
    service: WorkerManagerService, validator: OneMethod
) -> None:
    def fails(config: AccountConfig) -> ValidationResult:
        raise TypeError("a fault of its own")

    validator.validate = fails  # type: ignore[method-assign]
    with pytest.raises(InvalidConfigError, match="its validator failed: TypeError: a fault of its own"):
        service.start_worker_from_config("gold")
    validator.validate = lambda config: ValidationResult(  # type: ignore[method-assign]
        valid=False, account_id=config.account_id
    )
    with pytest.raises(InvalidConfigError, match="without a reason"):
        service.start_worker_from_config("gold")


def test_the_managers_own_rules_hold_without_a_directory() -> None:
    pool: Any = MemoryPool()
    wrong = config(account_id="wrong", currencies=())
    service = WorkerManagerService(TwoMethods(GOLD, wrong), pool)
    assert service.validate_config("gold").valid
    assert not service.validate_config("wrong").valid
    assert set(service.start_all_enabled_workers()) == {"gold"}
    alone = WorkerManagerService(TwoMethods(GOLD), pool, AccountConfigurationValidator())
    assert alone.start_worker_from_config("gold").status == "running"


@pytest.mark.parametrize("own", [Refusing, lambda service: OneMethod("a")])
def test_over_a_directory_the_injected_validator_decides(
    tmp_path: Path, own: Callable[[ConfigurationService], Any]
) -> None:
    directory = Directory(tmp_path)
    directory.write("a", GOOD)
    directory.write("b", "gateway: [\n")
    pool: Any = MemoryPool()
    service = WorkerManagerService(directory.service, pool, own(directory.service))
    with pytest.raises(InvalidConfigError, match="the desk says no"):
        service.start_worker_from_config("a")
    assert "the desk says no" in service.validate_config("a").errors
    results = service.validate_all_configs()
    assert not results["a"].valid
    assert "accounts/b.yaml:" in results["b"].errors[0], "an error of a file has its position"


def test_a_service_that_overrides_reading_is_read_through_the_override(tmp_path: Path) -> None:
    class FromElsewhere(ConfigurationService):
        def load_account_config(self, account_id: str, apply_defaults: bool = True) -> AccountConfig:
            found = super().load_account_config(account_id, apply_defaults)
            return found.model_copy(update={"groups": ("elsewhere",)})

    Directory(tmp_path).write("a", GOOD)
    pool: Any = MemoryPool()
    service = WorkerManagerService(FromElsewhere(tmp_path), pool, OneMethod())
    assert set(service.start_all_enabled_workers(group="elsewhere")) == {"a"}


def test_the_local_pool_uses_the_injected_validator(short_dir: Path) -> None:
    paths = StatePaths(short_dir / "state")
    paths.create()
    directory = Directory(short_dir / "config")
    directory.write(
        "a", json.dumps({"gateway": "command", "command": ["true"], "ready": {"after_seconds": 0.1}})
    )
    settings = Settings(config_dir=directory.root, state_dir=paths.root, host="h")
    pool = build_pool(settings, directory.service)
    validator = OneMethod("a")
    service = WorkerManagerService(directory.service, pool, validator)
    with pytest.raises(InvalidConfigError, match="the desk says no"):
        service.start_worker_from_config("a")
    assert "the desk says no" in service.start_all().failed["a"]
    assert validator.asked
    pool.close()


class Sent:
    """A service over the Celery pool, and its writes to Redis."""

    def __init__(self, redis: RedisServer) -> None:
        self.redis = redis
        self.validator = OneMethod("bad")
        self.pool = celery_worker_pool(Settings(redis_url=redis.url, command_timeout_seconds=1))
        self.service = WorkerManagerService(TwoMethods(GOLD, BAD, OFF), self.pool, self.validator)
        self.desired = DesiredStore(redis.url)

    def tasks(self) -> int:
        with self.redis.client() as client:
            return int(client.llen("celery") + client.llen("host.h"))

    def has_host(self) -> None:
        store = FleetStore(self.redis.url)
        store.report_agent("h", {"version": "0.2.0"})
        store.close()


@pytest.fixture
def sent(redis_server: RedisServer) -> Iterator[Sent]:
    found = Sent(redis_server)
    found.has_host()
    yield found
    found.desired.close()


def test_the_callers_validator_runs_before_anything_is_sent(sent: Sent) -> None:
    for command in (sent.service.start_worker_from_config, sent.service.restart_worker):
        with pytest.raises(InvalidConfigError, match="the desk says no"):
            command("bad")
    with pytest.raises(AccountNotFoundError):
        sent.service.start_worker_from_config("nobody")
    assert sent.tasks() == 0
    assert sent.desired.read("bad") is None, "its desired state is not written either"


def test_a_batch_sends_the_accounts_that_the_callers_validator_accepts(sent: Sent) -> None:
    reported: list[tuple[str, str]] = []
    result = sent.service.start_all(progress=lambda *one: reported.append(one), wait=False)
    assert set(result.pending) == {"gold"}
    assert set(result.failed) == {"bad", "broken"}
    assert "the desk says no" in result.failed["bad"]
    assert ("bad", "failed") in reported
    assert sent.tasks() == 1
    assert sent.desired.desired_accounts() == ["gold"]
    _, later = sent.pool.batch_result(result.batch_id)
    assert "the desk says no" in later.failed["bad"]


def test_without_an_own_validator_only_the_host_reads_the_files(redis_server: RedisServer) -> None:
    pool = celery_worker_pool(Settings(redis_url=redis_server.url, command_timeout_seconds=1))
    service = WorkerManagerService(TwoMethods(), pool)
    with pytest.raises(HostUnavailableError):
        service.start_worker_from_config("only-the-host-has-it")
