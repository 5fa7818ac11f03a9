"""A worker that its schedule stops, in the real pool."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from support.pool_host import Host

from manager.errors import NoWorkerError
from manager.host.workers.slot import Rest, Slot
from manager.states import WorkerLifecycleStatus

RESTING = {"for": "schedule", "until": "2026-12-01T08:00:00+00:00", "text": "rests", "unmet": []}


def rest(generation: int = 0, *, close_positions: bool = False) -> Rest:
    """Return how an account rests."""
    return Rest(RESTING, generation, close_positions)


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    yield found
    found.close()


def test_a_rest_ends_the_process_and_says_until_when(host: Host) -> None:
    host.account("a", 1)
    process = host.process(host.start())
    info = host.pool.rest_worker("a", lambda: rest(7))
    assert not process.alive()
    assert host.sessions() == 0
    assert info is not None
    assert (info.status, info.placement.resting, info.placement.generation) == ("stopped", RESTING, 7)
    assert host.pool.queries.resting("a") == RESTING


def test_an_account_without_a_worker_gets_a_record(host: Host) -> None:
    info = host.pool.rest_worker("new", rest)
    assert info is not None
    assert (info.status, info.rest_text) == (WorkerLifecycleStatus.STOPPED, "rests")


def test_a_start_ends_the_rest(host: Host) -> None:
    host.account("a", 1)
    host.pool.rest_worker("a", rest)
    assert host.start().placement.resting is None
    assert host.pool.queries.resting("a") is None


def test_a_stop_of_a_resting_account_succeeds_and_ends_the_rest(host: Host) -> None:
    host.pool.rest_worker("a", rest)
    assert host.pool.stop_worker("a") is True
    assert host.pool.queries.resting("a") is None
    with pytest.raises(NoWorkerError):
        host.pool.stop_worker("a")


def test_a_worker_that_does_not_rest_when_its_turn_comes_keeps_running(host: Host) -> None:
    host.account("a", 1)
    process = host.process(host.start())
    answers = iter([rest(), None, None])
    info = host.pool.rest_worker("a", lambda: next(answers))
    assert process.alive()
    assert info is not None
    assert (info.status, info.placement.resting) == ("running", None)


def test_a_failed_start_ends_the_rest(host: Host) -> None:
    host.pool.rest_worker("a", rest)
    host.pool.abandon("a", "no room")
    info = host.pool.get_worker_info("a")
    assert info is not None
    assert (info.error, info.placement.resting) == ("no room", None)


def test_a_failure_stays_visible_during_a_rest(host: Host) -> None:
    host.pool.abandon("a", "it crashed")
    info = host.pool.rest_worker("a", rest)
    assert info is not None
    assert (info.status, info.error, info.rest_text) == ("failed", "it crashed", "rests")


@pytest.mark.parametrize("close", [False, True])
def test_a_rest_closes_positions_only_if_configured_to(
    host: Host, monkeypatch: pytest.MonkeyPatch, close: bool
) -> None:
    host.account("a", 1)
    host.start()
    asked: list[Mapping[str, Any]] = []
    ask = Slot.ask

    def noted(slot: Slot, request: Mapping[str, Any], *, timeout: float = 2.0) -> dict[str, Any]:
        asked.append(request)
        return ask(slot, request, timeout=timeout)

    monkeypatch.setattr(Slot, "ask", noted)
    host.pool.rest_worker("a", lambda: rest(close_positions=close))
    assert [(one["op"], one.get("open_positions")) for one in asked] == [("stop", "close" if close else None)]
    assert not host.pool.slots.get("a").closes_positions, "a later stop keeps positions"
