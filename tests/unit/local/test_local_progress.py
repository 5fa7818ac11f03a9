"""What somebody who waits is shown: a fixed total, who is awaited, and what holds everything up."""

from collections.abc import Collection
from io import StringIO

import pytest
from rich.console import Console
from support.servers import RedisServer
from support.waiting import eventually

from manager.fleet import FleetStore
from manager.fleet.leases import LeaseStore, Quarantine
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus as S
from manager.terminal import progress
from manager.terminal.awaited import Awaited, Wait, waiting_for
from manager.terminal.progress import batch_progress

NOBODY = FleetStore("unix:///none.sock")


def info(account_id: str, status: S) -> WorkerInfo:
    return WorkerInfo(worker_id="w", account_id=account_id, status=status, metadata={"host": "london-1"})


class Told(Awaited):
    """Tells the same each time."""

    def __init__(self, held_up: str = "") -> None:
        super().__init__(NOBODY, None)
        self.held_up = held_up

    def look(self, account_ids: Collection[str]) -> list[Wait]:
        return [Wait(one, "logging in", 12.0) for one in sorted(account_ids)]

    def quarantine(self) -> str:
        return self.held_up


def test_each_account_says_what_it_does_and_since_when() -> None:
    awaited = Awaited(NOBODY, None)
    ids = ["a", "b", "c", "d"]
    workers = {
        "a": info("a", S.STARTING),
        "b": info("b", S.UNKNOWN),
        "c": info("c", S.STOPPED),
        "d": info("d", S.STOPPING),
    }
    awaited.explain(ids, {**workers, "d": info("d", S.RUNNING)}, 100.0)
    waits = awaited.explain(ids, workers, 112.0)
    assert list(map(str, waits)) == [
        "a (logging in 12 s)",
        "d (stopping)",
        "b (host london-1 is silent)",
        "c (queued)",
    ]
    assert waiting_for(ids, waits) == (
        "waiting for 4: a (logging in 12 s), d (stopping), b (host london-1 is silent), and 1 more"
    )
    assert waiting_for(["c"], waits) == "waiting for 1: c (queued)", "what is done meanwhile is not named"
    assert waiting_for([], waits) == ""


def test_the_total_is_fixed_and_the_awaited_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LOOK_SECONDS", 0.01)
    output = StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    with batch_progress(console, "starting", ["a", "b", "c"], Told("starts wait 9 s more")) as tell:
        assert tell is not None
        tell("disabled", "skipped")
        tell("invalid", "failed")
        tell("a", "done")
        tell("a", "done")
        eventually(lambda: "waiting for 2: b (logging in 12 s), c (logging in 12 s)" in output.getvalue())
    shown = output.getvalue()
    assert "1/3" in shown
    assert not any(f"{count}/3" in shown for count in (2, 3, 4))
    assert "/4" not in shown
    assert "starts wait 9 s more" in shown


def test_without_a_terminal_there_is_no_bar_and_a_hold_up_is_one_whole_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_LOOK_SECONDS", 0.01)
    output = StringIO()
    long = "starts wait 27 s more: " + "Redis has lost its data " * 8
    looks = []

    class Counted(Told):
        def quarantine(self) -> str:
            looks.append(1)
            return self.held_up

    with batch_progress(Console(file=output, width=80), "starting", ["a"], Counted(long)):
        eventually(lambda: len(looks) > 3, what="it has looked several times")
    assert output.getvalue() == f"{long}\n"


def test_a_quarantine_is_told_for_starts_alone(redis_server: RedisServer) -> None:
    store, leases = FleetStore(redis_server.url), LeaseStore(redis_server.url)
    starts = Awaited(store, leases)
    assert starts.quarantine() == "", "nobody has asked for a lease yet"
    with pytest.raises(Quarantine):
        leases.acquire(["c"], host="h", worker_id="w", account_id="a", ttl_seconds=0, quarantine_seconds=27)
    assert starts.quarantine().startswith(("starts wait 27 s more: Redis", "starts wait 26 s more: Redis"))
    assert Awaited(store, None).quarantine() == ""
    leases.trust()
    assert starts.quarantine() == ""
    assert Awaited(NOBODY, LeaseStore("unix:///none.sock")).quarantine() == ""
