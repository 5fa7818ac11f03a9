"""A misspelt account leaves nothing behind; a stop of an account that may run is always carried out."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from support.reconciled_host import ReconciledHost
from support.servers import RedisServer

from manager.client.celery_pool import CeleryWorkerPool
from manager.config import ConfigurationService
from manager.errors import (
    AccountNotFoundError,
    HostUnavailableError,
    ManagerError,
    NoHostFitsError,
    NoWorkerError,
)
from manager.factory import fleet_hosts
from manager.fleet.audit import AuditTrail
from manager.fleet.batches import BatchStore
from manager.fleet.desired_store import DESIRED_KEY
from manager.host.commands import CommandContext
from manager.models import WorkerInfo
from manager.placement.engine import Needs
from manager.service import WorkerManagerService
from manager.settings import Settings
from manager.states import WorkerLifecycleStatus
from manager.validation import KnownAccounts

GHOST = "acount-001"


@pytest.fixture
def host(redis_server: RedisServer, tmp_path: Path) -> Iterator[ReconciledHost]:
    found = ReconciledHost(tmp_path, redis_server.url, "h")
    found.account("account-001", 1)
    yield found
    found.close()


class RemoteManager:
    """A manager with the host's account files."""

    def __init__(self, host: ReconciledHost, redis: RedisServer) -> None:
        self.redis = redis
        self.trail = AuditTrail(redis.url)
        app = Celery(
            broker=redis.url.replace("unix", "redis+socket"),
            backend=redis.url.replace("unix", "redis+socket"),
        )
        files = ConfigurationService(host.config_dir)
        self.pool = CeleryWorkerPool(
            app,
            host.store,
            host.desired,
            host.lease_store,
            BatchStore(redis.url),
            command_timeout_seconds=0.2,
            audit=self.trail,
            account_files=KnownAccounts(files),
        )
        self.service = WorkerManagerService(files, self.pool)

    def queued(self) -> int:
        with self.redis.client() as client:
            return int(client.llen("celery") + client.llen("host.h"))

    def outcomes(self) -> list[tuple[str, str, str]]:
        return [
            (entry.what, entry.account_id, entry.outcome)
            for entry in self.trail.last(100)
            if entry.stage == "done"
        ]


@pytest.fixture
def remote(host: ReconciledHost, redis_server: RedisServer) -> RemoteManager:
    return RemoteManager(host, redis_server)


def desired_accounts(redis: RedisServer) -> set[str]:
    with redis.client() as client:
        return {key.decode() for key in client.hkeys(DESIRED_KEY)}


# on the host: tasks of any sender


COMMANDS: list[Callable[[ReconciledHost], Any]] = [
    lambda host: host.commands.start(GHOST, True, True, CommandContext("t-1")),
    lambda host: host.commands.restart(GHOST, CommandContext("t-2")),
    lambda host: host.commands.stop(GHOST, None, CommandContext("t-3")),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_task_for_an_unknown_account_records_nothing(
    host: ReconciledHost, redis_server: RedisServer, command: Callable[[ReconciledHost], Any]
) -> None:
    host.reconciler.desired_cache.read()
    with pytest.raises((AccountNotFoundError, NoWorkerError), match="no account"):
        command(host)
    assert desired_accounts(redis_server) == set()
    assert host.reconciler.desired_cache.get(GHOST) is None


def _deleted_while_it_runs(host: ReconciledHost) -> None:
    host.pool.live["gone"] = 0


def _still_desired(host: ReconciledHost) -> None:
    host.set_running("gone", "h")


def _recorded(host: ReconciledHost) -> None:
    info = WorkerInfo(
        worker_id="w", account_id="gone", status=WorkerLifecycleStatus.RUNNING, metadata={"host": "h"}
    )
    host.store.record("h", [info], {"gone": {"worker_id": "w"}})


def _found_by_its_files(host: ReconciledHost) -> None:
    has_account: Any = lambda account_id: account_id == "gone"  # noqa: E731
    host.pool.has_account = has_account  # type: ignore[method-assign]


@pytest.mark.parametrize("sign", [_deleted_while_it_runs, _still_desired, _recorded, _found_by_its_files])
def test_a_known_account_without_a_file_can_be_stopped(
    host: ReconciledHost, redis_server: RedisServer, sign: Callable[[ReconciledHost], None]
) -> None:
    sign(host)
    assert host.commands.stop("gone", None, CommandContext("t-stop")) is True
    assert desired_accounts(redis_server) == {"gone"}
    found = host.desired.read("gone")
    assert found is not None
    assert found.state == "stopped"


def test_a_stop_is_never_refused_while_redis_is_down(host: ReconciledHost, redis_server: RedisServer) -> None:
    redis_server.stop()
    assert host.commands.stop(GHOST, None, CommandContext("t-stop")) is True
    redis_server.start()


# in the manager


def test_a_manager_records_nothing_for_an_unknown_account(
    remote: RemoteManager, host: ReconciledHost, redis_server: RedisServer
) -> None:
    """A live host may have its file, so the command is sent."""
    for command in (
        remote.service.start_worker_from_config,
        remote.service.restart_worker,
        remote.service.stop_worker,
    ):
        with pytest.raises(ManagerError):  # no host agent reads the queue here
            command(GHOST)
    assert remote.queued() == 3
    assert desired_accounts(redis_server) == set()
    for refused in (
        lambda: remote.service.move_worker(GHOST, "h"),
        lambda: remote.service.move_worker(GHOST, "h", force=True),
        lambda: remote.service.validate_config(GHOST),
        lambda: remote.service.validate_on_hosts([GHOST]),
        lambda: fleet_hosts(Settings(redis_url=redis_server.url)).forget_account(GHOST),
    ):
        with pytest.raises(AccountNotFoundError):
            refused()
    assert remote.queued() == 3
    assert desired_accounts(redis_server) == set()
    assert host.desired.read(GHOST) is None


def test_without_a_live_host_an_unknown_account_is_refused_and_a_known_one_is_stopped(
    host: ReconciledHost, redis_server: RedisServer
) -> None:
    remote = RemoteManager(host, redis_server)
    host.store.forget_agent("h")
    with pytest.raises(NoWorkerError, match="nothing was stopped or written down"):
        remote.service.stop_worker(GHOST)
    with pytest.raises(HostUnavailableError):
        remote.service.start_worker_from_config(GHOST)
    assert desired_accounts(redis_server) == set()
    assert remote.outcomes() == [("stop", GHOST, "no_worker"), ("start", GHOST, "host_unavailable")]
    with pytest.raises(HostUnavailableError):
        remote.service.stop_worker("account-001")
    assert desired_accounts(redis_server) == {"account-001"}


@pytest.mark.parametrize("lacks", ["hosts", "files"])
def test_a_stop_is_recorded_where_the_account_may_exist(
    host: ReconciledHost, redis_server: RedisServer, lacks: str
) -> None:
    """As after Redis has lost its data, or on a machine without account files."""
    remote = RemoteManager(host, redis_server)
    if lacks == "hosts":
        host.store.forget_host("h")
    else:
        host.store.forget_agent("h")
        (host.config_dir / "accounts" / "account-001.yaml").unlink()
    with pytest.raises(HostUnavailableError):
        remote.service.stop_worker("gone")
    assert desired_accounts(redis_server) == {"gone"}


# refusals by the manager are in the audit trail


def test_every_refused_move_has_an_outcome(remote: RemoteManager, host: ReconciledHost) -> None:
    with pytest.raises(HostUnavailableError):
        remote.service.move_worker("account-001", "nowhere")
    with pytest.raises(AccountNotFoundError):
        remote.service.move_worker(GHOST, "h")
    host.account("account-001", 1, host="elsewhere")
    with pytest.raises(NoHostFitsError):
        remote.service.move_worker("account-001", "h")
    info = WorkerInfo(
        worker_id="w", account_id="there", status=WorkerLifecycleStatus.STARTING, metadata={"host": "h"}
    )
    host.store.record("h", [info], {})
    with pytest.raises(ManagerError, match="already"):
        remote.service.move_worker("there", "h")
    host.set_running("uncertain", "silent")
    with pytest.raises(HostUnavailableError, match="may trade there"):
        remote.service.move_worker("uncertain", "h")
    assert remote.outcomes() == [
        ("move", "account-001", "host_unavailable"),
        ("move", GHOST, "account_not_found"),
        ("move", "account-001", "no_host_fits"),
        ("move", "there", "already_there"),
        ("move", "uncertain", "host_unavailable"),
    ]


def test_wrong_arguments_and_the_callers_own_validator_have_an_outcome(
    remote: RemoteManager, host: ReconciledHost, redis_server: RedisServer
) -> None:
    for wrong in (
        lambda: remote.service.stop_worker("account-001", -1),
        lambda: remote.service.start_worker_from_config("../x"),
        lambda: remote.service.restart_worker("a b"),
        lambda: remote.service.move_worker("account-001", "no host"),
    ):
        with pytest.raises(ValueError, match=r"."):
            wrong()
    assert [(what, account) for what, account, _ in remote.outcomes()] == [
        ("stop", ""),
        ("start", ""),
        ("restart", ""),
        ("move", ""),
    ]

    class No:
        def validate(self, config: Any) -> Any:
            raise RuntimeError(f"no {config.account_id}")

    (host.config_dir / "accounts" / "broken.yaml").write_text("gateway: [\n")
    strict = WorkerManagerService(remote.service.config_service, remote.pool, No())
    with pytest.raises(ManagerError):
        strict.start_worker_from_config("account-001")
    strict.start_all(wait=False)
    assert sorted(remote.outcomes()[4:]) == [
        ("start", "account-001", "invalid_config"),
        ("start", "account-001", "invalid_config"),
        ("start", "broken", "invalid_config"),
    ]
    assert desired_accounts(redis_server) == set()


def test_what_is_refused_of_hosts_and_records_has_an_outcome(
    remote: RemoteManager, host: ReconciledHost
) -> None:
    hosts = fleet_hosts(Settings(redis_url=remote.redis.url))
    host.set_running("account-001", "h")
    for refused in (
        lambda: hosts.drain("nowhere"),
        lambda: hosts.resume("nowhere"),
        lambda: hosts.forget("h"),
        lambda: hosts.forget_account("account-001"),
        lambda: hosts.forget_account(GHOST),
    ):
        with pytest.raises(ManagerError):
            refused()
    entries = [(entry.what, entry.host, entry.account_id, entry.outcome) for entry in remote.trail.last(10)]
    assert [entry for entry in entries if entry[3]] == [
        ("drain", "nowhere", "", "no_such_host"),
        ("resume-host", "nowhere", "", "no_such_host"),
        ("forget-host", "h", "", "host_unavailable"),
        ("forget", "", "account-001", "account_busy"),
        ("forget", "", GHOST, "account_not_found"),
    ]


def test_needs_are_not_asked_of_an_unknown_account(remote: RemoteManager) -> None:
    with pytest.raises(AccountNotFoundError):
        remote.pool.move_worker(GHOST, "h", needs=Needs(account_id=GHOST))
