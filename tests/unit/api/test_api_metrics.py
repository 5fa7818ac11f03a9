"""GET /metrics over a live view of a real Redis."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.metrics_core import Metric
from starlette.testclient import TestClient
from support.api import Api, problem
from support.metrics import RUNS, parsed, series, value
from support.servers import RedisServer
from support.waiting import eventually

from manager.api.app import create_app
from manager.api.auth import Authenticator
from manager.api.metrics_page import MetricsPage, RequestMeter
from manager.fleet import FleetStore
from manager.fleet.desired_store import DesiredStore
from manager.fleet.events import EVENTS_KEPT
from manager.fleet.keys import counters_key
from manager.fleet.live_reads import LiveReads
from manager.models import WorkerInfo
from manager.placement.labels import Selection
from manager.states import WorkerLifecycleStatus as S
from manager.telemetry.fleet_reader import ViewReader
from manager.telemetry.view import FleetView

TOKEN_OF_FILE = "a-token-that-a-person-made-0123456789"


class Fleet:
    """Writers of a fleet, and the API that shows it."""

    def __init__(self, server: RedisServer, view: FleetView) -> None:
        self.server = server
        self.store = FleetStore(server.url)
        reader = ViewReader(view, list_seconds=0)
        self.api = Api(server, {}, metrics=MetricsPage(reader, self.store.stream, "auto"))
        parts = replace(
            self.api.parts,
            authenticator=Authenticator(self.api.tokens, self.api.sessions, metrics_token=TOKEN_OF_FILE),
        )
        self.api.app = create_app(parts)

    def report(self, host: str, *accounts: str, status: S = S.RUNNING, **figures: Any) -> None:
        """Write a host's report, and the records and heartbeats of its workers."""
        self.store.report_agent(host, {"time": time.time(), "memory_mb": 1024, "states": {"running": 1}})
        infos = [
            WorkerInfo(
                worker_id=f"w-{one}", account_id=one, status=status, metadata={"host": host, "epoch": 1}
            )
            for one in accounts
        ]
        beat = {key: found for key, found in RUNS.items() if key not in ("host", "heartbeat_age_seconds")}
        beats = {
            one: {**beat, "worker_id": f"w-{one}", "loop_age_seconds": 0.0, **figures} for one in accounts
        }
        self.store.record(host, infos, beats)

    def scrape(self) -> str:
        answer = self.scraper().get("/metrics")
        assert answer.status_code == 200, answer.text
        return answer.text

    def scraper(self) -> TestClient:
        return self.api.anonymous({"Authorization": f"Bearer {TOKEN_OF_FILE}"})

    def page(self, condition: Callable[[str], object]) -> str:
        """Return the first page that meets a condition."""
        found = [""]

        def met() -> object:
            found[0] = self.scrape()
            return condition(found[0])

        eventually(met, within=15, what="the page shows it")
        return found[0]


@pytest.fixture
def fleet(redis_server: RedisServer) -> Iterator[Fleet]:
    reads = LiveReads(redis_server.url, events_kept=EVENTS_KEPT)
    view = FleetView(reads, DesiredStore(redis_server.url), stale_after_seconds=2)
    assert view.start(wait_seconds=5)
    yield Fleet(redis_server, view)
    view.close()
    reads.close()


def accounts_of(page: str) -> set[str]:
    return {dict(labels)["account"] for _, labels in series(page) if "account" in dict(labels)}


def hosts_of(page: str) -> set[str]:
    return {dict(labels)["host"] for _, labels in series(page) if "host" in dict(labels)}


def test_the_page_is_the_text_format_and_shows_workers(fleet: Fleet) -> None:
    fleet.report("h", "a", "b")
    page = fleet.page(lambda text: 'manager_account_equity{account="b"' in text)
    assert (
        fleet.scraper().get("/metrics").headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    )
    assert value(page, "manager_redis_up") == 1
    assert accounts_of(page) == {"a", "b"}
    age = value(page, "manager_account_heartbeat_age_seconds", account="a")
    assert age is not None
    assert 0 <= age < 30
    assert value(page, "manager_host_up", host="h") == 1
    assert value(page, "manager_events_total", host="h", type="worker.running") == 2, page


def test_what_is_gone_is_gone_from_the_next_page(fleet: Fleet) -> None:
    fleet.report("h", "a", "b")
    fleet.report("other", "c")
    fleet.page(lambda text: accounts_of(text) == {"a", "b", "c"})
    fleet.store.forget_worker("h", "a")
    fleet.page(lambda text: accounts_of(text) == {"b", "c"})
    fleet.store.forget_host("other")
    fleet.page(lambda text: accounts_of(text) == {"b"} and hosts_of(text) == {"h"})


def test_a_worker_that_is_silent_is_unknown_and_has_no_figures(fleet: Fleet) -> None:
    fleet.report("h", "a")
    fleet.page(lambda text: value(text, "manager_account_state", account="a", state="running") == 1)
    page = fleet.page(lambda text: value(text, "manager_account_state", account="a", state="unknown") == 1)
    of_account = {name for name, labels in series(page) if "account" in dict(labels)}
    assert of_account == {"manager_account_info", "manager_account_state"}
    assert value(page, "manager_attention", code="unknown", severity="warning") == 1


def test_the_page_shows_no_account_and_no_host_during_an_outage_of_redis(fleet: Fleet) -> None:
    fleet.report("h", "a")
    fleet.page(lambda text: accounts_of(text) == {"a"})
    fleet.server.stop()
    page = fleet.scrape()  # the token of the file needs no Redis, and the very first page shows it
    assert value(page, "manager_redis_up") == 0
    assert accounts_of(page) == set()
    assert hosts_of(page) == set()
    names = {name for name in parsed(page) if not name.startswith(("manager_api_", "manager_stream_"))}
    assert names == {
        *("manager_build_info", "manager_redis_up", "manager_view_age_seconds", "manager_view_drift_total")
    }
    fleet.page(lambda text: (value(text, "manager_view_age_seconds") or 0) > 1)
    fleet.server.start()
    fleet.page(lambda text: value(text, "manager_redis_up") == 1 and accounts_of(text) == {"a"})


def test_only_the_scope_metrics_may_scrape(fleet: Fleet) -> None:
    api = fleet.api
    assert api.client("metrics").get("/metrics").status_code == 200
    found = problem(api.client("read", "operate").get("/metrics"), 403, "forbidden")
    assert found["scope"] == "metrics"
    problem(api.anonymous().get("/metrics"), 401, "unauthenticated")
    problem(api.anonymous({"Authorization": "Bearer wrong"}).get("/metrics"), 401, "unauthenticated")
    problem(api.client("metrics").get("/api/v1/workers"), 403, "forbidden")
    problem(fleet.scraper().get("/api/v1/workers"), 403, "forbidden")


def test_a_token_that_may_read_some_accounts_may_not_scrape(fleet: Fleet) -> None:
    client = fleet.api.client("metrics", selection=Selection(groups=("fx",)), read_selection=True)
    problem(client.get("/metrics"), 403, "outside_selection")


def test_counters_that_are_not_finite_are_left_out(fleet: Fleet) -> None:
    fleet.report("h", "a")
    with fleet.server.client() as client:
        client.hset(counters_key("h"), mapping={"good": 2, "bad": "nan", "worse": "inf", "worst": "x"})
    page = fleet.page(lambda text: value(text, "manager_events_total", host="h", type="good") == 2)
    kinds = {sample.labels["type"] for sample in parsed(page)["manager_events_total"].samples}
    assert not {"bad", "worse", "worst"} & kinds


def test_text_that_utf_8_cannot_hold_does_not_break_the_page(fleet: Fleet) -> None:
    fleet.report("h", "a", currency="\ud800")
    fleet.page(lambda text: 'manager_account_state{account="a"' in text)


def test_requests_are_counted_by_route_and_known_method(fleet: Fleet) -> None:
    client = fleet.scraper()
    client.get("/api/v1/workers/account-9")
    client.get("/nothing/here")
    client.request("BREW", "/metrics")
    found: Metric = parsed(fleet.scrape())["manager_api_requests_total"]
    labels = [sample.labels for sample in found.samples]
    assert all("account-9" not in one["route"] and "nothing" not in one["route"] for one in labels)
    assert {one["method"] for one in labels} <= {"GET", "other"}


def test_the_time_of_a_request_is_a_histogram() -> None:
    meter = RequestMeter()
    for seconds in (0.001, 0.3, 300.0):
        meter.count("/x", "GET", 200, seconds)
    page = meter.render(2, 0.25)
    assert value(page, "manager_api_request_seconds_bucket", route="/x", le="0.005") == 1
    assert value(page, "manager_api_request_seconds_bucket", route="/x", le="0.5") == 2
    assert value(page, "manager_api_request_seconds_bucket", route="/x", le="+Inf") == 3
    assert value(page, "manager_api_request_seconds_count", route="/x") == 3
    assert value(page, "manager_stream_clients") == 2
    assert value(page, "manager_stream_lag_seconds") == 0.25
