"""Typed worker metadata and host reports: all versions, all keys."""

import json
from pathlib import Path
from typing import Any

import pytest
from support.reference_docs import PAYLOADS, REFERENCE, payloads_page

from manager.fleet.host_report import HostReport
from manager.fleet.hosts import HostState
from manager.fleet.run_types import Run
from manager.models import OpenPayload, WorkerInfo, WorkerMetrics, WorkerPlacement
from manager.states import WorkerLifecycleStatus

OLD = Path(__file__).parents[1] / "fixtures" / "payloads" / "0.1"


def old(name: str) -> Any:
    return json.loads((OLD / f"{name}.json").read_text())


def test_payloads_of_version_0_1_are_read_and_written_back_unchanged() -> None:
    metadata = old("worker_info")["metadata"]
    placement = WorkerPlacement.read(metadata)
    assert (placement.host, placement.pid, placement.generation) == ("test-host", 2925, 1795525154707)
    assert placement.last_cause is None
    assert placement.adopted is None
    assert placement.to_dict() == metadata, (
        "unknown keys (here `health`) are kept, and missing ones stay missing"
    )
    report = HostReport.read(old("agent_word"))
    assert (report.version, report.workers, report.trouble, report.commands) == ("0.1.0", 1, None, None)
    assert report.to_dict() == old("agent_word")


def test_a_key_of_a_later_version_is_kept() -> None:
    later = {"equity": "1.50", "margin_level": 3.5}
    assert WorkerMetrics.read(later).to_dict() == later


@pytest.mark.parametrize("model", PAYLOADS.values(), ids=lambda model: model.__name__)
@pytest.mark.parametrize("value", [{}, [[]], object(), 10**400, float("nan"), -(10**16), True, "\ud800"])
def test_no_value_breaks_a_reader(model: type[OpenPayload], value: object) -> None:
    for name in model.model_fields:
        found = model.read({name: value, "unknown": value})
        assert getattr(found, name) in (None, value, type(found)()) or name in ("clock_change", "drain")


def test_an_invalid_value_hides_no_other_key() -> None:
    metrics = WorkerMetrics.read({"equity": 1.5, "currency": "EUR", "open_positions": "many"})
    assert (metrics.equity, metrics.currency, metrics.open_positions) == (None, "EUR", None)
    drain = HostReport.read({"drain": {"leaving": 2, "staying": "x"}}).drain
    assert drain is not None
    assert (drain.leaving, drain.staying) == (2, None)


def test_an_odd_value_of_a_gateway_is_left_out() -> None:
    metrics = WorkerMetrics(open_positions=2.5, currency="EUR")  # type: ignore[arg-type]
    assert metrics.to_dict() == {"currency": "EUR"}


def test_metrics_are_updated_by_the_keys_that_are_set() -> None:
    before = WorkerMetrics(health="healthy", health_reason=None, checks=1)
    after = before.updated(WorkerMetrics(health="degraded"), WorkerMetrics(checks=2))
    assert after.to_dict() == {"health": "degraded", "health_reason": None, "checks": 2}


def test_a_worker_and_a_host_offer_their_typed_views() -> None:
    info = WorkerInfo(
        worker_id="w",
        account_id="a",
        status=WorkerLifecycleStatus.RUNNING,
        metadata={"host": "h", "equity": "9.99"},
    )
    assert (info.placement.host, info.metrics.equity) == ("h", "9.99")
    host = HostState(
        "h", live=True, age_seconds=0.1, data={"workers": 3, "memory_mb": 10**400, "capacity": 5}
    )
    assert (host.workers, host.facts.capacity) == (3, 5)
    assert host.facts.memory_mb == HostState("h", True, 0.1, {}).facts.memory_mb, "as one that does not say"


def test_no_key_is_in_both_views_of_the_metadata() -> None:
    assert not set(WorkerPlacement.model_fields) & set(WorkerMetrics.model_fields)


def test_the_page_has_a_complete_row_for_every_key() -> None:
    page = (REFERENCE / "payloads.md").read_text()
    assert page == payloads_page()
    page, _, runs = page.partition("\n## Run\n")
    for name in Run.model_fields:
        (row,) = [line for line in runs.splitlines() if line.startswith(f"| `{name}` |")]
        assert row.rstrip(" |").endswith("."), row
    for model in PAYLOADS.values():
        for name in model.model_fields:
            found = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
            assert found, name
            for row in found:
                kind, _, by, meaning = [cell.strip() for cell in row.strip("|").split(" | ")][1:]
                assert kind
                assert by
                assert meaning.rstrip().endswith("."), row
