"""Health, judged with a fake clock."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from manager.config import HealthConfig
from manager.market.names import SessionName
from manager.models import WorkerMetrics
from manager.session.health import HealthJudge

WEDNESDAY = datetime(2026, 11, 18, 12, 0, tzinfo=UTC)
SATURDAY = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


def judge(now: datetime = WEDNESDAY, **config: Any) -> HealthJudge:
    return HealthJudge(HealthConfig(**config), clock=lambda: now)


@pytest.mark.parametrize(
    ("session", "figures", "health", "reason"),
    [
        ((True, True, None), {}, "healthy", None),
        ((True, False, None), {}, "degraded", "cannot trade"),
        ((True, False, "trading is disabled"), {}, "degraded", "trading is disabled"),
        ((False, True, None), {}, "degraded", "venue not connected"),
        ((True, True, None), {"last_tick_age_seconds": 299.0}, "healthy", None),
        ((True, True, None), {"last_tick_age_seconds": 301.0}, "degraded", "no tick for 301 s"),
        ((True, True, None), {"cycle_seconds": 30.5}, "degraded", "the last cycle took 30.5 s"),
    ],
)
def test_what_makes_a_worker_unwell(
    session: Any, figures: dict[str, float], health: str, reason: str | None
) -> None:
    found = judge()
    found.session(*session)
    answer = found.judge(WorkerMetrics.read(figures))
    assert answer.health == health
    assert (reason is None) == (answer.health_reason is None)
    assert (reason or "") in (answer.health_reason or "")


def test_checks_and_failures_are_counted() -> None:
    found = judge()
    found.judge(WorkerMetrics())
    found.session(True, False, None)
    found.judge(WorkerMetrics())
    assert found.judge(WorkerMetrics()).checks == 3
    assert found.judge(WorkerMetrics()).failed_checks == 3


def test_what_does_not_pass_is_unhealthy_until_it_does() -> None:
    now = [WEDNESDAY]
    found = HealthJudge(HealthConfig(unhealthy_after_seconds=60), clock=lambda: now[0])
    found.session(False, True, None)
    assert found.judge(WorkerMetrics()).health == "degraded"
    now[0] += timedelta(seconds=61)
    assert found.judge(WorkerMetrics()).health == "unhealthy"
    found.session(True, True, None)
    assert found.judge(WorkerMetrics()).health == "healthy"
    found.session(False, True, None)
    assert found.judge(WorkerMetrics()).health == "degraded"


def test_an_old_tick_outside_market_hours_is_healthy() -> None:
    old = WorkerMetrics.read({"last_tick_age_seconds": 50_000.0})
    assert judge(SATURDAY).judge(old).health == "healthy"
    assert judge(SATURDAY, market_hours="always").judge(old).health == "degraded"


@pytest.mark.parametrize(
    ("hours", "moment", "health"),
    [
        ("metals", "2026-11-18T22:30", "healthy"),  # the hour after 17:00 in New York
        ("fx", "2026-11-18T22:30", "degraded"),
        ("london", "2026-11-18T07:59", "healthy"),
        ("london", "2026-11-18T08:00", "degraded"),
        ("crypto", "2026-11-21T12:00", "degraded"),
    ],
)
def test_ticks_are_expected_in_any_named_session(hours: SessionName, moment: str, health: str) -> None:
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    old = WorkerMetrics.read({"last_tick_age_seconds": 301.0})
    assert judge(now, market_hours=hours).judge(old).health == health
