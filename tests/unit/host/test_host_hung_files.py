"""The files of one account hang.

Every other account is started, stopped and recovered.
"""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.reconciled_host import ReconciledHost
from support.servers import RedisServer
from support.waiting import eventually

from manager.config import AccountConfig, ConfigurationService
from manager.host.commands import CommandContext
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set, every read of the files of account `hangs` blocks."""
    opened = threading.Event()
    load: Any = ConfigurationService.load_account_config

    def hanging(self: ConfigurationService, account_id: str, apply_defaults: bool = True) -> AccountConfig:
        if account_id == "hangs":
            assert opened.wait(60)
        config: AccountConfig = load(self, account_id, apply_defaults)
        return config

    monkeypatch.setattr(ConfigurationService, "load_account_config", hanging)
    yield opened
    opened.set()


def test_hung_files_of_one_account_delay_no_other(
    redis_server: RedisServer, tmp_path: Path, gate: threading.Event
) -> None:
    host = ReconciledHost(tmp_path, redis_server.url, "h")
    try:
        for login, account_id in enumerate(("hangs", "well"), 1):
            host.account(account_id, login)
            host.set_running(account_id, "h")
        starting = threading.Thread(target=host.reconciler.start)
        starting.start()
        eventually(lambda: "well" in host.pool.started)

        lost = WorkerInfo(worker_id="w", account_id="hangs", status=WorkerLifecycleStatus.RUNNING)
        for account_id in ("hangs", "well"):
            host.pool.live.pop(account_id, None)
            recover = host.reconciler.restarts.on_exit(lost.with_(account_id=account_id), "it was killed")
            assert recover is not None
            recover()
        eventually(lambda: host.pool.started.count("well") == 2)
        assert host.commands.stop("well", None, CommandContext("t-stop")) is True
        assert "hangs" not in host.pool.started

        gate.set()
        eventually(lambda: "hangs" in host.pool.started)
        starting.join(10)
    finally:
        gate.set()
        host.close()
