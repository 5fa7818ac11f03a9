"""The page of metrics, read by Prometheus's own parser."""

from typing import Any

import pytest
from support.metrics import RUNS, figures, full_page, host, parsed, row, sample_names, series, value

from manager.fleet.hosts import HostState
from manager.states import WorkerLifecycleStatus as S
from manager.telemetry.attention import Attention
from manager.telemetry.fleet_reader import AccountRow
from manager.telemetry.metrics import FleetFigures, render

HOSTILE = 'a"b\\c\nd} 1\n# HELP fake\nfake{x="\U0001f600'

#: Family → its labels.
EVERY = {
    "manager_build_info": {"version", "python"},
    "manager_redis_up": set(),
    "manager_view_age_seconds": set(),
    "manager_view_drift_total": set(),
    "manager_accounts": {"state", "want"},
    "manager_accounts_health": {"health"},
    "manager_accounts_omitted": set(),
    "manager_attention": {"code", "severity"},
    "manager_equity": {"currency", "environment"},
    "manager_balance": {"currency", "environment"},
    "manager_profit": {"currency", "environment"},
    "manager_group_equity": {"group", "currency", "environment"},
    "manager_group_open_positions": {"group", "currency", "environment"},
    "manager_open_positions": {"environment"},
    "manager_hosts": {"state"},
    "manager_host_up": {"host"},
    "manager_host_workers": {"host", "state"},
    "manager_host_memory_available_bytes": {"host"},
    "manager_host_memory_bytes": {"host"},
    "manager_host_load1": {"host"},
    "manager_host_clock_skew_seconds": {"host"},
    "manager_host_last_seen_seconds": {"host"},
    "manager_host_info": {"host", "version", "python", "tzdata", "config_version", "state"},
    "manager_events_total": {"host", "type"},
    "manager_start_seconds": {"host", "le"},
    "manager_account_info": {
        *("account", "host", "gateway", "environment", "groups", "version", "config_version")
    },
    "manager_account_state": {"account", "state"},
    "manager_account_health": {"account", "health"},
    "manager_account_equity": {"account", "currency"},
    "manager_account_balance": {"account", "currency"},
    "manager_account_margin_level": {"account"},
    "manager_account_open_positions": {"account"},
    "manager_account_heartbeat_age_seconds": {"account"},
    "manager_account_start_time_seconds": {"account"},
    "manager_account_restarts_total": {"account"},
    "manager_account_memory_bytes": {"account"},
    "manager_account_cpu_seconds_total": {"account"},
    "manager_api_requests_total": {"route", "method", "code"},
    "manager_api_request_seconds": {"route", "le"},
    "manager_stream_clients": set(),
    "manager_stream_lag_seconds": set(),
}
#: Metrics of the fleet that no account and no host has.
OF_THE_PROCESS = {
    *("manager_build_info", "manager_redis_up", "manager_view_age_seconds", "manager_view_drift_total")
}


def test_every_family_is_on_the_page_with_its_labels() -> None:
    found = {
        name: {label for sample in family.samples for label in sample.labels}
        for name, family in parsed(full_page()).items()
    }
    assert found == EVERY
    assert all(family.documentation for family in parsed(full_page()).values())


def test_counters_and_histograms_have_their_type() -> None:
    kinds = {name: family.type for name, family in parsed(full_page()).items()}
    assert {name for name, kind in kinds.items() if kind == "counter"} == {
        name for name in EVERY if name.endswith("_total")
    }
    histograms = {name for name, kind in kinds.items() if kind == "histogram"}
    assert histograms == {"manager_start_seconds", "manager_api_request_seconds"}


def test_an_account_that_is_gone_is_not_on_the_next_page() -> None:
    assert 'account="account-002"' in render(figures([row(), row("account-002")]))
    assert "account-002" not in render(figures([row()]))


def test_an_unknown_account_has_a_state_and_no_figures() -> None:
    names = {name for name, labels in series(render(figures([row(status=S.UNKNOWN)]))) if dict(labels)}
    assert names == {
        "manager_build_info",
        "manager_accounts",
        "manager_account_info",
        "manager_account_state",
    }
    page = render(figures([row(status=S.UNKNOWN)]))
    assert value(page, "manager_account_state", account="account-001", state="unknown") == 1


def test_a_stopped_account_has_no_money_and_keeps_its_restarts() -> None:
    page = render(figures([row(status=S.STOPPED)]))
    assert value(page, "manager_account_restarts_total", account="account-001") == 1
    assert "equity" not in page
    assert "heartbeat_age" not in page


def test_without_redis_the_page_holds_no_account_and_no_host() -> None:
    away = figures([row()], hosts=[host()], redis_up=False, counters={"host-1": {"running": 1}})
    page = render(away)
    assert set(parsed(page)) == OF_THE_PROCESS
    assert value(page, "manager_redis_up") == 0


def test_a_view_that_never_saw_redis_has_an_age_that_can_be_read() -> None:
    page = render(FleetFigures(redis_up=False, view_age_seconds=float("inf"), view_drift=0))
    assert value(page, "manager_view_age_seconds") == 1e9


def test_hostile_text_stays_inside_its_label() -> None:
    hostile = row(
        HOSTILE, groups=(HOSTILE,), host=HOSTILE, gateway=HOSTILE, currency=HOSTILE, environment=HOSTILE
    )
    attention = [Attention(code="failed", text=HOSTILE, do=HOSTILE, account_id=HOSTILE)]
    counters = {HOSTILE: {HOSTILE: 1.0, "start_seconds:60": 1.0}}
    page = render(
        figures([hostile], hosts=[host(HOSTILE, version=HOSTILE)], attention=attention, counters=counters)
    )
    assert set(parsed(page)) <= set(EVERY)
    assert value(page, "manager_account_open_positions", account=HOSTILE) == 2
    assert value(page, "manager_host_up", host=HOSTILE) == 1
    assert value(page, "manager_events_total", host=HOSTILE, type=HOSTILE) == 1


@pytest.mark.parametrize(
    "nonsense", ["1E+999999", "1E-9999999", "9" * 400, "NaN", "Infinity", "x", None, [], 1.5]
)
def test_money_that_cannot_be_read_harms_no_other_figure(nonsense: object) -> None:
    page = render(figures([row("a"), row("b", equity=nonsense, balance=nonsense, profit=nonsense)]))
    assert len(page) < 20_000
    total = value(page, "manager_equity", currency="USD", environment="demo")
    assert total == pytest.approx(float(str(RUNS["equity"])))
    assert value(page, "manager_account_equity", account="a", currency="USD") == 10050.25


@pytest.mark.parametrize("nonsense", [10**400, float("inf"), float("nan"), True, "7", None, {}])
def test_figures_that_are_no_numbers_are_left_out(nonsense: object) -> None:
    keys = ("margin_level", "open_positions", "memory_bytes", "cpu_seconds", "restarts")
    wrong: dict[str, Any] = dict.fromkeys(keys, nonsense)
    page = render(figures([row(**wrong)]))
    found = {
        name for name, labels in series(page) if name.startswith("manager_account_") and len(labels) == 1
    }
    assert found == {"manager_account_heartbeat_age_seconds", "manager_account_start_time_seconds"}
    assert value(page, "manager_open_positions", environment="demo") == 0


def test_figures_of_a_host_are_in_bytes_and_by_state() -> None:
    page = render(figures(hosts=[host()]))
    assert value(page, "manager_host_memory_bytes", host="host-1") == 2048 * 2**20
    assert value(page, "manager_host_memory_available_bytes", host="host-1") == 512 * 2**20
    assert value(page, "manager_host_load1", host="host-1") == 0.75
    assert value(page, "manager_host_workers", host="host-1", state="running") == 2
    assert value(page, "manager_host_workers", host="host-1", state="starting") == 1


def test_a_lost_host_is_down_and_shows_no_figures() -> None:
    lost = HostState("host-1", False, 99.0, host().data, clock_skew_seconds=1.0)
    found = {name for name, labels in series(render(figures(hosts=[lost]))) if dict(labels).get("host")}
    assert found == {"manager_host_up", "manager_host_last_seen_seconds", "manager_host_info"}
    assert value(render(figures(hosts=[lost])), "manager_host_up", host="host-1") == 0


def test_wrong_types_in_a_report_are_left_out() -> None:
    wrong = host(memory_mb="much", available_mb=-1, load="high", states={"running": "x"}, version=7)
    page = render(figures(hosts=[wrong]))
    assert value(page, "manager_host_up", host="host-1") == 1
    assert not {"manager_host_memory_bytes", "manager_host_load1"} & set(parsed(page))


def test_an_account_of_two_groups_counts_in_each_and_once_in_the_fleet() -> None:
    page = render(figures([row(groups=("fx", "real")), row("b", groups=("fx",))]))
    where = {"currency": "USD", "environment": "demo"}
    assert value(page, "manager_group_equity", group="fx", **where) == 20100.5
    assert value(page, "manager_group_equity", group="real", **where) == 10050.25
    assert value(page, "manager_equity", **where) == 20100.5
    assert value(page, "manager_open_positions", environment="demo") == 4


def test_currencies_and_environments_are_never_added_up() -> None:
    page = render(figures([row("a"), row("b", currency="EUR"), row("c", environment="real")]))
    assert value(page, "manager_equity", currency="USD", environment="demo") == 10050.25
    assert value(page, "manager_equity", currency="EUR", environment="demo") == 10050.25
    assert value(page, "manager_equity", currency="USD", environment="real") == 10050.25


def test_a_move_between_hosts_makes_no_new_series_but_account_info() -> None:
    before = series(render(figures([row(host="host-1")])))
    for number in range(20):
        after = series(render(figures([row(host=f"host-{number + 2}", version="0.4.0")])))
        assert {name for name, _ in after ^ before} == {"manager_account_info"}


def test_the_groups_label_has_at_most_128_characters() -> None:
    page = render(figures([row(groups=tuple(f"group-{n:04}" for n in range(100)))]))
    (info,) = parsed(page)["manager_account_info"].samples
    assert len(info.labels["groups"]) == 128


def shown(page: str) -> set[str]:
    return {dict(labels)["account"] for _, labels in series(page) if "account" in dict(labels)}


def test_which_accounts_have_series_of_their_own() -> None:
    accounts = [row(f"a-{number:04}") for number in range(1001)]
    noticed = [Attention(code="failed", text="", do="", account_id="a-0500")]
    large = figures(accounts, attention=noticed)
    small = figures(accounts[:1000], attention=noticed)
    assert len(shown(render(small, shown="auto"))) == 1000
    assert value(render(small, shown="auto"), "manager_accounts_omitted") == 0
    assert shown(render(large, shown="auto")) == {"a-0500"}
    assert value(render(large, shown="auto"), "manager_accounts_omitted") == 1000
    assert len(shown(render(large, shown="all"))) == 1001
    assert shown(render(small, shown="attention")) == {"a-0500"}
    assert shown(render(small, shown="none")) == set()
    assert value(render(small, shown="none"), "manager_accounts_omitted") == 1000
    # Sums are of every account, however many are shown.
    assert value(render(large, shown="none"), "manager_accounts", state="running", want="stopped") == 1001


def test_an_account_without_a_worker_counts_and_has_no_series() -> None:
    page = render(figures([row(status=None), AccountRow("b")]))
    assert value(page, "manager_accounts", state="none", want="stopped") == 2
    assert shown(page) == set()


def test_start_times_are_a_histogram_with_growing_buckets() -> None:
    counters = {
        "h": {"start_seconds:0.05": 1, "start_seconds:1": 2, "start_seconds:+Inf": 1, "start_seconds:sum": 99}
    }
    page = render(figures(counters=counters))
    assert value(page, "manager_start_seconds_bucket", host="h", le="0.05") == 1
    assert value(page, "manager_start_seconds_bucket", host="h", le="1") == 3
    assert value(page, "manager_start_seconds_bucket", host="h", le="60") == 3
    assert value(page, "manager_start_seconds_bucket", host="h", le="+Inf") == 4
    assert value(page, "manager_start_seconds_count", host="h") == 4
    assert value(page, "manager_start_seconds_sum", host="h") == 99
    assert sample_names() >= {"manager_start_seconds_bucket", "manager_start_seconds_count"}
