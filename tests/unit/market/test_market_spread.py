"""S4: the starts of many accounts at one opening are spread before it."""

from collections import Counter
from datetime import UTC, datetime, timedelta

from manager.config.models_schedule import ScheduleConfig
from manager.config.schedules import ScheduleBook
from manager.market.decisions import Action, decide
from manager.market.schedules import Timetable

OPENING = datetime(2026, 12, 1, 8, tzinfo=UTC)
LEAD, SPREAD = timedelta(seconds=30), timedelta(seconds=60)


def timetable() -> Timetable:
    config = ScheduleConfig.model_validate(
        {"clock": "UTC", "run": [{"from": "08:00", "to": "16:00"}], "lead": "30s", "spread": "60s"}
    )
    return Timetable(ScheduleBook().build(config))


def test_a_thousand_accounts_start_evenly_within_the_spread() -> None:
    schedule = timetable().schedule
    starts = Counter(
        int((schedule.head_start(f"account-{number:04}") - LEAD).total_seconds() // 10)
        for number in range(1000)
    )
    assert set(starts) == set(range(6)), "in every ten seconds of the minute"
    assert max(starts.values()) < 1.3 * 1000 / 6


def test_each_account_waits_from_its_own_start_until_the_opening() -> None:
    table = timetable()
    for number in range(50):
        account_id = f"account-{number:04}"
        begins = OPENING - table.schedule.head_start(account_id)
        assert OPENING - LEAD - SPREAD <= begins <= OPENING - LEAD
        tick = timedelta(milliseconds=1)
        actions = [
            decide(table, account_id, at, desired_running=True).action
            for at in (begins - tick, begins, OPENING - tick, OPENING)
        ]
        assert actions == [Action.REST, Action.WAIT, Action.WAIT, Action.RUN]
