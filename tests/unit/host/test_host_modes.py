"""Trading modes on a host, with real workers and a real Redis."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.pool_host import Host
from support.reconciled_host import ReconciledHost
from support.servers import RedisServer
from support.waiting import eventually

from manager.errors import CommandRefusedError, NotSupportedError, NoWorkerError
from manager.fleet.desired_store import DESIRED_KEY
from manager.host.commands import CommandContext
from manager.host.workers.limits import PoolLimits
from manager.host.workers.modes import reported_mode
from manager.pool.commands import PAUSE, RESUME
from manager.states import TradingMode

SIGSTOP: int = getattr(signal, "SIGSTOP", signal.SIGTERM)


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    yield found
    found.close()


def mode(host: Host) -> str:
    info = host.service.get_worker_info("a")
    assert info is not None
    return str(info.trading_mode)


def test_pause_and_resume_without_a_new_session(host: Host) -> None:
    host.account("a", 1)
    before = host.start()
    paused = host.service.pause_worker("a")
    assert (paused.trading_mode, paused.status, paused.worker_id) == ("paused", "running", before.worker_id)
    eventually(lambda: mode(host) == "paused", what="the worker reports it")
    assert host.sessions() == 1
    assert host.service.resume_worker("a").trading_mode == "normal"
    assert host.service.get_worker_info("a").worker_id == before.worker_id  # type: ignore[union-attr]


def test_a_new_agent_knows_the_mode_of_an_adopted_worker(host: Host) -> None:
    host.account("a", 1)
    host.start()
    host.service.pause_worker("a")
    (record,) = host.pool.queries.live_records()
    eventually(lambda: reported_mode(record) is TradingMode.PAUSED, what="the worker has written it")
    host.pool.close()
    host.new_pool().adopt()
    assert host.pool.queries.mode("a") is TradingMode.PAUSED
    assert mode(host) == "paused"


def test_a_pause_fails_when_the_worker_does_not_answer(host: Host) -> None:
    host.pool.close()
    host.new_pool(PoolLimits(order_seconds=0.1, reply_seconds=0.1))
    host.account("a", 1)
    process = host.process(host.start())
    process.signal(SIGSTOP)
    with pytest.raises(CommandRefusedError, match="did not answer"):
        host.service.pause_worker("a")
    assert host.pool.queries.mode("a") is TradingMode.NORMAL


def test_an_account_without_a_worker_has_nothing_to_pause(host: Host) -> None:
    host.account("a", 1)
    with pytest.raises(NoWorkerError, match="nothing to pause"):
        host.service.pause_worker("a")


def test_a_batch_of_pauses_contains_every_account(host: Host) -> None:
    host.account("a", 1)
    host.account("b", 2)
    host.start("a")
    host.start("b")
    result = host.service.pause_all()
    assert set(result.done) == {"a", "b"}
    assert {str(info.trading_mode) for info in result.done.values()} == {"paused"}


# desired state


@pytest.fixture
def kept(short_dir: Path, redis_server: RedisServer) -> Iterator[Callable[[str], ReconciledHost]]:
    made: list[ReconciledHost] = []

    def make(name: str) -> ReconciledHost:
        made.append(ReconciledHost(short_dir, redis_server.url, name))
        return made[-1]

    yield make
    for one in made:
        one.close()


def run(host: ReconciledHost) -> None:
    host.account("x", 1)
    host.commands.start("x", True, True, CommandContext("t-start"))
    host.pool.epochs["x"] = (("c",), 1)


def test_a_mode_survives_an_empty_redis(
    kept: Callable[[str], ReconciledHost], redis_server: RedisServer
) -> None:
    host = kept("one")
    run(host)
    host.commands.set_mode(PAUSE, "x", CommandContext("t-pause"))
    host.reconcile()
    with redis_server.client() as client:
        client.delete(DESIRED_KEY)
        client.incr("manager:desired:version")
    host.reconcile()
    now = host.desired.read("x")
    assert now is not None
    assert (now.state, now.mode) == ("running", "paused")


def test_reconciliation_sets_the_mode_of_a_worker_that_missed_it(
    kept: Callable[[str], ReconciledHost],
) -> None:
    """The host was silent when the mode was set, or the worker did not answer."""
    host = kept("one")
    run(host)
    host.desired.set_mode("x", TradingMode.PAUSED, token="t-pause", by="me", what="pause")
    host.reconcile()
    eventually(lambda: host.pool.modes.get("x") == "paused", what="the worker has the mode")


def test_a_start_after_a_pause_begins_paused(kept: Callable[[str], ReconciledHost]) -> None:
    host = kept("one")
    run(host)
    host.commands.set_mode(PAUSE, "x", CommandContext("t-pause"))
    desired = host.desired.read("x")
    assert desired is not None
    request = host.reconciler.restarts.start_request(desired)
    assert request.trading_mode is not None
    assert request.trading_mode() is TradingMode.PAUSED
    host.commands.set_mode(RESUME, "x", CommandContext("t-resume"))
    assert request.trading_mode() is TradingMode.NORMAL, "the mode is read when the worker is created"


def test_a_program_cannot_be_paused_and_the_mode_is_reverted(kept: Callable[[str], ReconciledHost]) -> None:
    host = kept("one")
    file = host.config_dir / "accounts" / "x.yaml"
    file.write_text("gateway: command\ncommand: [sleep, '60']\nready: {after_seconds: 0.1}\n")
    host.set_running("x", "one")
    with pytest.raises(NotSupportedError, match="pause is not supported: the program decides"):
        host.commands.set_mode(PAUSE, "x", CommandContext("t-pause"))
    now = host.desired.read("x")
    assert now is not None
    assert now.mode == "normal"
