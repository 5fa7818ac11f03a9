"""Limits against measured figures."""

import pytest

from manager.config.models_limits import LimitsConfig
from manager.host.limits.judge import Figures, Judge, waits_text

MIB = 1 << 20


def limits(**more: object) -> LimitsConfig:
    return LimitsConfig.model_validate(more)


def test_memory_above_its_limit_is_an_excess_with_value_limit_and_trend() -> None:
    judge, config = Judge(), limits(memory_mb=400)
    for at, size in ((0, 200), (30, 300), (60, 400)):
        judge.judge(config, Figures(memory=size * MIB), float(at))
        assert judge.exceeded == {}
    judge.judge(config, Figures(memory=412 * MIB), 65.0)
    excess = judge.exceeded["memory_mb"]
    assert excess.text == "memory 412 MB > limits.memory_mb 400"
    # The figure at 0 s is older than a minute.
    assert excess.data("restart") == {
        "limit": "memory_mb",
        "value": 412.0,
        "most": 400,
        "trend": 112.0,
        "trend_seconds": 35,
        "action": "restart",
        "text": "memory 412 MB > limits.memory_mb 400",
    }
    assert excess.trend_text == "+112 MB within 35 s"


def test_a_figure_that_was_not_read_is_no_excess_and_ends_none() -> None:
    judge, config = Judge(), limits(memory_mb=400, open_files=100, processes=4, cpu_percent=50)
    judge.judge(config, Figures(), 0.0)
    assert judge.exceeded == {}
    judge.judge(config, Figures(memory=500 * MIB), 5.0)
    judge.judge(config, Figures(), 10.0)
    assert list(judge.exceeded) == ["memory_mb"]


def test_an_excess_ends_only_clearly_below_its_limit() -> None:
    judge, config = Judge(), limits(memory_mb=400)
    judge.judge(config, Figures(memory=401 * MIB), 0.0)
    judge.judge(config, Figures(memory=390 * MIB), 5.0)
    assert judge.exceeded["memory_mb"].value == 401
    judge.judge(config, Figures(memory=380 * MIB), 10.0)
    assert judge.exceeded == {}
    judge.judge(config, Figures(memory=390 * MIB), 15.0)
    assert judge.exceeded == {}


def test_a_raised_limit_ends_its_excess() -> None:
    judge = Judge()
    judge.judge(limits(memory_mb=400), Figures(memory=412 * MIB), 0.0)
    judge.judge(limits(memory_mb=420), Figures(memory=412 * MIB), 5.0)
    assert judge.exceeded == {}
    judge.judge(limits(), Figures(memory=999 * MIB), 10.0)
    assert judge.exceeded == {}


def test_cpu_is_judged_only_by_the_mean_of_a_whole_window() -> None:
    judge, config = Judge(), limits(cpu_percent=80, cpu_window="60s")
    used = 0.0
    for at in range(0, 60, 5):
        judge.judge(config, Figures(cpu_seconds=used), float(at))
        assert judge.exceeded == {}, at
        used += 5.0
    judge.judge(config, Figures(cpu_seconds=used), 60.0)
    assert judge.exceeded["cpu_percent"].text == "CPU 100 % > limits.cpu_percent 80"
    # A short peak in an idle window is none.
    calm = Judge()
    for at in range(0, 300, 5):
        calm.judge(config, Figures(cpu_seconds=20.0 if at >= 100 else 0.0), float(at))
        assert calm.exceeded == {}, at


def test_cpu_time_that_is_lost_with_a_process_is_not_negative_use() -> None:
    judge, config = Judge(), limits(cpu_percent=50, cpu_window="10s")
    for at, seconds in ((0, 100.0), (5, 104.0), (10, 2.0), (15, 6.0), (20, 10.0)):
        judge.judge(config, Figures(cpu_seconds=seconds), float(at))
    assert judge.exceeded["cpu_percent"].value == 80.0


def test_a_long_window_keeps_few_measurements() -> None:
    judge, config = Judge(), limits(cpu_percent=50, cpu_window="1h")
    for at in range(0, 8000, 5):
        judge.judge(config, Figures(cpu_seconds=at * 0.6), float(at))
    assert len(judge._cpu) <= 14
    assert judge.exceeded["cpu_percent"].value == pytest.approx(60, abs=0.1)


@pytest.mark.parametrize(("count", "exceeded"), [(94, False), (95, True), (100, True)])
def test_a_process_near_its_limit_of_files_counts_as_exceeded(count: int, exceeded: bool) -> None:
    judge = Judge()
    judge.judge(limits(open_files=100), Figures(open_files=count), 0.0)
    assert bool(judge.exceeded) is exceeded


def test_the_hard_limit_is_judged_first() -> None:
    judge = Judge()
    judge.judge(
        limits(memory_mb=400, memory_hard_mb=600, processes=4), Figures(memory=700 * MIB, processes=5), 0.0
    )
    assert list(judge.exceeded) == ["memory_hard_mb", "memory_mb", "processes"]


def test_a_message_says_when_an_action_follows() -> None:
    assert waits_text(limits(grace="5m"), "restart") == "when it is flat, in 5m at the latest"
    assert waits_text(limits(when_flat=False), "restart") is None
    assert waits_text(limits(), "warn") is None
