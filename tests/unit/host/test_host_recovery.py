"""Delays and limit of restarts, with the test's own clock and random numbers."""

import pytest

from manager.config import RecoveryConfig
from manager.host.reconcile.restart_policy import RestartPolicy

CONFIG = RecoveryConfig(
    max_restarts=5,
    window_seconds=100,
    backoff_seconds=1,
    max_backoff_seconds=4,
    healthy_after_seconds=30,
)


def test_the_first_restart_is_at_once_and_the_next_ones_wait_twice_as_long_each() -> None:
    policy = RestartPolicy(random_fraction=lambda: 0.0)
    assert [policy.next_delay(float(at), CONFIG) for at in range(5)] == [0.0, 1.0, 2.0, 4.0, 4.0]


@pytest.mark.parametrize(("fraction", "delay"), [(0.0, 1.0), (0.5, 0.75), (1.0, 0.5)])
def test_up_to_half_of_a_delay_is_random(fraction: float, delay: float) -> None:
    policy = RestartPolicy(random_fraction=lambda: fraction)
    policy.next_delay(0, CONFIG)
    assert policy.next_delay(1, CONFIG) == delay


def test_a_healthy_period_makes_the_next_restart_the_first_again() -> None:
    policy = RestartPolicy(random_fraction=lambda: 0.0)
    policy.next_delay(0, CONFIG)
    policy.next_delay(1, CONFIG)
    policy.started(2)
    assert policy.next_delay(31, CONFIG) == 2.0  # 29 s are not enough
    policy.started(32)
    assert policy.next_delay(62, CONFIG) == 0.0


def test_the_limit_applies_within_the_window_alone() -> None:
    policy = RestartPolicy()
    for at in range(5):
        assert policy.next_delay(at, CONFIG) is not None
    assert policy.next_delay(50, CONFIG) is None
    assert policy.restarts == 5
    assert policy.next_delay(110, CONFIG) is not None


def test_a_limit_of_zero_allows_no_restart() -> None:
    assert RestartPolicy().next_delay(0, RecoveryConfig(max_restarts=0)) is None


def test_a_thousand_failures_overflow_nothing() -> None:
    policy = RestartPolicy(random_fraction=lambda: 0.0)
    config = RecoveryConfig(max_restarts=10_000)
    delays = [policy.next_delay(at, config) for at in range(1000)]
    assert max(filter(None, delays)) == config.max_backoff_seconds
