"""Recovery settings of adopted workers: those of their start until their file can be read."""

import math
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.pool_host import Host
from support.reconciled_host import ReconciledHost
from support.servers import RedisServer
from support.waiting import eventually

from manager.config import AccountConfig, ConfigurationService, RecoveryConfig
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus

SETTINGS = RecoveryConfig(max_restarts=3, backoff_seconds=7.0, restart_unhealthy=True)


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    found.account("a", 1, recovery=SETTINGS.model_dump(mode="json"))
    found.start()
    found.pool.close()
    yield found
    found.close()


def test_a_new_agent_finds_the_settings(host: Host) -> None:
    host.new_pool().adopt()
    assert host.pool.queries.recovery("a") == SETTINGS


@pytest.mark.skipif(sys.platform != "linux", reason="open files of others are shown on Linux alone")
@pytest.mark.parametrize("lost", ["note", "record", "everything"])
def test_a_new_agent_finds_the_settings_without_the_workers_files(host: Host, lost: str) -> None:
    if lost in ("record", "everything"):
        (host.paths.workers_dir / "a.json").unlink()
    if lost in ("note", "everything"):
        for path in host.paths.run_dir.glob("*.note"):
            path.unlink()
    (adopted,) = host.new_pool().adopt()
    assert adopted.status is WorkerLifecycleStatus.RUNNING
    assert host.pool.queries.recovery("a") == SETTINGS


def test_a_new_agent_finds_the_settings_of_a_worker_that_has_ended(host: Host) -> None:
    (process,) = host.seen.values()
    process.kill()
    assert process.wait(10)
    (adopted,) = host.new_pool().adopt()
    assert adopted.status is WorkerLifecycleStatus.FAILED
    assert host.pool.queries.recovery("a") == SETTINGS


def test_an_old_or_invalid_note_gives_no_settings(host: Host) -> None:
    host.pool.config_changes.kept.remove("a")  # which also has them
    for content in ("{}", '{"recovery": null}', '{"recovery": {"max_restarts": "many"}}', "\0", "[]"):
        for path in host.paths.run_dir.glob("*.note"):
            path.write_text(content)
        host.new_pool().adopt()
        assert host.pool.queries.recovery("a") is None
        host.pool.close()
    host.new_pool().adopt()


def _broken(path: Path, _: pytest.MonkeyPatch) -> Callable[[], object]:
    whole = path.read_text()
    path.write_text("gateway: [\n")
    return lambda: path.write_text(whole)


def _gone(path: Path, _: pytest.MonkeyPatch) -> Callable[[], object]:
    aside = path.with_suffix(".aside")
    path.rename(aside)
    return lambda: aside.rename(path)


def _hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    del path
    opened = threading.Event()
    load: Any = ConfigurationService.load_account_config

    def hanging(self: ConfigurationService, account_id: str, apply_defaults: bool = True) -> AccountConfig:
        assert opened.wait(60)
        config: AccountConfig = load(self, account_id, apply_defaults)
        return config

    monkeypatch.setattr(ConfigurationService, "load_account_config", hanging)
    return opened.set


@pytest.mark.parametrize("spoil", [_broken, _gone, _hangs])
def test_an_unreadable_file_does_not_change_the_recovery(
    redis_server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path, pytest.MonkeyPatch], Callable[[], object]],
) -> None:
    """It was started with `max_restarts: 0`.

    The default of ten must not apply.
    """
    host = ReconciledHost(tmp_path, redis_server.url, "h")
    host.account("a", 1)
    host.set_running("a", "h")
    host.pool.live["a"] = 1
    host.pool.recoveries["a"] = RecoveryConfig(max_restarts=0)
    mend = spoil(host.config_dir / "accounts" / "a.yaml", monkeypatch)
    try:
        host.reconciler.desired_cache.read()
        del host.pool.live["a"]
        lost = WorkerInfo(worker_id="w", account_id="a", status=WorkerLifecycleStatus.RUNNING)
        recover = host.reconciler.restarts.on_exit(lost, "it was killed")
        assert recover is not None
        recover()
        host.reconciler.restarts.tick(math.inf)
        eventually(lambda: "given up" in host.pool.abandoned.get("a", ""), what=str(host.pool.abandoned))
        assert host.pool.started == []

        mend()

        # The file takes precedence once it can be read.
        def restarted() -> bool:
            """Report another exit after a command: by the file, which allows restarts, there is one."""
            host.reconciler.restarts.reset("a")
            again = host.reconciler.restarts.on_exit(lost, "it was killed")
            assert again is not None
            again()
            host.reconciler.restarts.tick(math.inf)
            return bool(host.pool.started)

        eventually(restarted, what="the settings in the file apply once it is readable")
    finally:
        if spoil is _hangs:
            mend()
        host.close()


def test_an_agent_of_the_previous_version_reads_the_record(host: Host) -> None:
    """It rejects records with unknown fields: only the note has the settings."""
    assert "recovery" not in (host.paths.workers_dir / "a.json").read_text()
    host.new_pool().adopt()
