"""Progress of a batch: a fixed total, the pending accounts, and the quarantine."""

import sys
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
from manager.terminal.pending_reasons import PendingReasons, Wait, waiting_line
from manager.terminal.progress import batch_progress, check_progress, progress_console, reading_progress

UNREACHABLE = FleetStore("unix:///none.sock")


def info(account_id: str, status: S) -> WorkerInfo:
    return WorkerInfo(worker_id="w", account_id=account_id, status=status, metadata={"host": "london-1"})


class FixedReasons(PendingReasons):
    """Returns the same reasons at every read."""

    def __init__(self, quarantine_text: str = "") -> None:
        super().__init__(UNREACHABLE, None)
        self.quarantine_text = quarantine_text

    def read(self, account_ids: Collection[str]) -> list[Wait]:
        return [Wait(one, "logging in", 12.0) for one in sorted(account_ids)]

    def quarantine(self) -> str:
        return self.quarantine_text


def test_each_reason_has_activity_and_duration() -> None:
    reasons = PendingReasons(UNREACHABLE, None)
    ids = ["a", "b", "c", "d"]
    workers = {
        "a": info("a", S.STARTING),
        "b": info("b", S.UNKNOWN),
        "c": info("c", S.STOPPED),
        "d": info("d", S.STOPPING),
    }
    reasons.explain(ids, {**workers, "d": info("d", S.RUNNING)}, 100.0)
    waits = reasons.explain(ids, workers, 112.0)
    assert list(map(str, waits)) == [
        "a (logging in 12 s)",
        "d (stopping)",
        "b (host london-1 is silent)",
        "c (queued)",
    ]
    assert waiting_line(ids, waits) == (
        "waiting for 4: a (logging in 12 s), d (stopping), b (host london-1 is silent), and 1 more"
    )
    assert waiting_line(["c"], waits) == "waiting for 1: c (queued)", "accounts that are done are not named"
    assert waiting_line([], waits) == ""


def test_the_total_is_fixed_and_pending_accounts_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.01)
    output = StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    with batch_progress(
        console, "starting", ["a", "b", "c"], FixedReasons("starts wait 9 s more")
    ) as on_progress:
        assert on_progress is not None
        on_progress("disabled", "skipped")
        on_progress("invalid", "failed")
        on_progress("a", "done")
        on_progress("a", "done")
        eventually(lambda: "waiting for 2: b (logging in 12 s), c (logging in 12 s)" in output.getvalue())
    shown = output.getvalue()
    assert "1/3" in shown
    assert not any(f"{count}/3" in shown for count in (2, 3, 4))
    assert "/4" not in shown
    assert "starts wait 9 s more" in shown


def test_without_a_terminal_the_quarantine_is_one_whole_line_and_no_bar(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "_POLL_SECONDS", 0.01)
    output = StringIO()
    long = "starts wait 27 s more: " + "Redis has lost its data " * 8
    reads = []

    class Counted(FixedReasons):
        def quarantine(self) -> str:
            reads.append(1)
            return self.quarantine_text

    with batch_progress(Console(file=output, width=80), "starting", ["a"], Counted(long)):
        eventually(lambda: len(reads) > 3, what="several reads")
    assert output.getvalue() == f"{long}\n"


def test_only_starts_show_the_quarantine(redis_server: RedisServer) -> None:
    store, leases = FleetStore(redis_server.url), LeaseStore(redis_server.url)
    starts = PendingReasons(store, leases)
    assert starts.quarantine() == "", "no lease was requested yet"
    with pytest.raises(Quarantine):
        leases.acquire(["c"], host="h", worker_id="w", account_id="a", ttl_seconds=0, quarantine_seconds=27)
    assert starts.quarantine().startswith(("starts wait 27 s more: Redis", "starts wait 26 s more: Redis"))
    assert PendingReasons(store, None).quarantine() == ""
    leases.trust()
    assert starts.quarantine() == ""
    assert PendingReasons(UNREACHABLE, LeaseStore("unix:///none.sock")).quarantine() == ""


def test_failed_accounts_are_counted_beside_the_bar() -> None:
    output = StringIO()
    console = Console(file=output, force_terminal=True, width=120)
    with batch_progress(console, "stopping", ["a", "b", "c"]) as on_progress:
        assert on_progress is not None
        on_progress("a", "failed")
        on_progress("a", "failed")
        on_progress("b", "done")
        eventually(lambda: "2/3" in output.getvalue() and "1 failed" in output.getvalue())
    assert "2 failed" not in output.getvalue()


def test_a_validation_shows_reading_checking_and_the_hosts() -> None:
    output = StringIO()
    console = Console(file=output, force_terminal=True, width=140)

    def shown(*texts: str) -> None:
        eventually(lambda: all(text in output.getvalue() for text in texts), what=str(texts))

    with check_progress(console, 3, ["l-1", "l-2", "l-3", "l-4", "l-5"]) as on_progress:
        assert on_progress is not None
        shown("reading account files")
        on_progress("a", "read")
        shown("1/3")
        for account_id, stage in (("a", "valid"), ("b", "invalid")):
            on_progress(account_id, stage)
        shown("checking account files", "2/3", "1 invalid")
        for account_id in ("a", "c"):
            on_progress(account_id, "asked")
        shown("waiting for l-1, l-2, l-3, and 2 more hosts", "0/2")
        on_progress("a", "failed")
        on_progress("c", "done")
        shown("2/2")


def test_more_files_than_were_listed_do_not_exceed_the_total() -> None:
    output = StringIO()
    with check_progress(Console(file=output, force_terminal=True, width=120), 1) as on_progress:
        assert on_progress is not None
        for account_id in ("a", "b"):
            on_progress(account_id, "read")
        eventually(lambda: "2/2" in output.getvalue())
    assert "2/1" not in output.getvalue()


def test_without_a_terminal_a_validation_shows_nothing() -> None:
    output = StringIO()
    console = Console(file=output, width=80)
    with reading_progress(console), check_progress(console, 500, ["l-1"]) as on_progress:
        assert on_progress is None
    with check_progress(Console(file=output, force_terminal=True), 0) as on_progress:
        assert on_progress is None
    with reading_progress(Console(file=output, force_terminal=True), quiet=True):
        pass
    assert output.getvalue() == ""


@pytest.mark.parametrize(
    ("out", "err", "term", "forced", "expected"),
    [
        (True, True, "xterm", None, True),
        (False, True, "xterm", None, False),
        (True, False, "xterm", None, False),
        (True, True, "dumb", None, False),
        (False, False, "xterm", "1", False),
    ],
)
def test_progress_needs_a_terminal_on_both_outputs(
    monkeypatch: pytest.MonkeyPatch, out: bool, err: bool, term: str, forced: str | None, expected: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: out)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: err)
    monkeypatch.setenv("TERM", term)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if forced is not None:
        monkeypatch.setenv("FORCE_COLOR", forced)
    console = progress_console()
    assert console.stderr
    assert console.is_terminal is expected
