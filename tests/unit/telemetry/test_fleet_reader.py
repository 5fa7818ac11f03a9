"""Listings of the live view: rate, reuse of rows, account files."""

from collections.abc import Iterator

import pytest
from support.servers import RedisServer
from support.waiting import eventually

from manager.errors import FleetUnavailableError
from manager.fleet import FleetStore
from manager.fleet.desired import DesiredStateRequest
from manager.fleet.desired_store import DesiredStore
from manager.fleet.events import EVENTS_KEPT
from manager.fleet.live_reads import LiveReads
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus as S
from manager.telemetry.fleet_reader import AccountFile, AccountRow, ViewReader
from manager.telemetry.view import FleetView


@pytest.fixture
def view(redis_server: RedisServer) -> Iterator[FleetView]:
    found = FleetView(LiveReads(redis_server.url, events_kept=EVENTS_KEPT), DesiredStore(redis_server.url))
    assert found.start(wait_seconds=5)
    yield found
    found.close()


def info(account_id: str, status: S = S.STOPPED) -> WorkerInfo:
    return WorkerInfo(
        worker_id=f"w-{account_id}",
        account_id=account_id,
        status=status,
        groups=("old",),
        metadata={"host": "h"},
    )


def test_accounts_come_from_records_desired_state_and_files(
    redis_server: RedisServer, view: FleetView
) -> None:
    FleetStore(redis_server.url).record("h", [info("b")], {})
    DesiredStore(redis_server.url).set_desired(
        DesiredStateRequest(account_id="c", state="running", token="t", by="me", why="start")
    )
    files = {"a": AccountFile(enabled=True, groups=("fx",), labels={"desk": "london"})}
    reader = ViewReader(view, lambda: files, list_seconds=0)
    eventually(lambda: list(reader.read().accounts) == ["a", "b", "c"], what="the view has all three")
    found = reader.read().accounts
    assert (found["a"].status, found["a"].want, found["a"].groups) == (None, "stopped", ("fx",))
    assert (found["b"].status, found["b"].host, found["b"].groups) == ("stopped", "h", ("old",))
    assert (found["c"].want, found["c"].status) == ("running", None)


def test_a_row_is_kept_until_its_account_changes(redis_server: RedisServer, view: FleetView) -> None:
    store = FleetStore(redis_server.url)
    store.record("h", [info("a"), info("b")], {})
    reader = ViewReader(view, list_seconds=0)
    eventually(lambda: len(reader.read().accounts) == 2, what="the view has both")
    before = reader.read()
    before.accounts["a"].rendered["worker"] = b"kept"
    store.record("h", [info("b", S.FAILED)], {})
    eventually(lambda: reader.read().accounts["b"].status == "failed", what="the view has the change")
    now = reader.read()
    assert now.version != before.version
    assert now.accounts["a"] is before.accounts["a"]
    assert now.accounts["b"] is not before.accounts["b"]
    assert now.cursor != before.cursor


def test_files_and_lists_are_read_again_after_their_time(view: FleetView) -> None:
    now, reads = [100.0], [0]

    def files() -> dict[str, AccountFile]:
        reads[0] += 1
        return {f"a-{reads[0]}": AccountFile(enabled=True)}

    reader = ViewReader(view, files, clock=lambda: now[0])
    assert reader.known() is None
    first = reader.read()
    now[0] += 0.9
    assert reader.read() is reader.known() is first
    now[0] += 1
    assert reader.known() is None
    assert list(reader.read().accounts) == ["a-1"]
    now[0] += 5
    second = reader.read()
    assert list(second.accounts) == ["a-2"]
    assert second.version != first.version


def test_figures_of_hosts_are_current_though_no_worker_changed(
    redis_server: RedisServer, view: FleetView
) -> None:
    store = FleetStore(redis_server.url)
    store.report_agent("h", {"available_mb": 900})
    reader = ViewReader(view, list_seconds=0)
    eventually(lambda: "h" in reader.read().hosts, what="the view has the host")
    store.report_agent("h", {"available_mb": 100})
    eventually(lambda: reader.read().hosts["h"].data["available_mb"] == 100, what="the view has its figure")


def test_a_view_that_never_saw_redis_lists_nothing(redis_server: RedisServer) -> None:
    reads = LiveReads(redis_server.url, events_kept=EVENTS_KEPT)
    with pytest.raises(FleetUnavailableError):
        ViewReader(FleetView(reads, DesiredStore(redis_server.url))).read()


def test_during_an_outage_the_listing_has_its_duration(redis_server: RedisServer, view: FleetView) -> None:
    reader = ViewReader(view, list_seconds=0)
    assert reader.read().stale_seconds is None
    redis_server.stop()
    eventually(lambda: reader.read().stale_seconds is not None, what="the view notices", within=10)


def test_a_broken_file_leaves_the_groups_of_the_last_start() -> None:
    row = AccountRow("a", info("a"), None, AccountFile(enabled=None, readable=False))
    assert row.groups == ("old",)
    assert AccountRow("a", info("a"), None, AccountFile(enabled=True)).groups == ()
