"""Streams of the real API process, killed while many clients read.

`benchmarks/stream_resume.py` is the same with 200 clients, 20,000 events and 20 kills.
"""

import time

import pytest
from support.fleet import Fleet
from support.resuming import ResumeTrial

pytestmark = [pytest.mark.e2e, pytest.mark.long]


def test_every_client_gets_every_event_once_though_the_api_is_killed(bare_fleet: Fleet) -> None:
    trial = ResumeTrial(bare_fleet, clients=40, events=2_000, kills=3)
    found = trial.run(within=150, clock=time.monotonic, say=print)
    assert (found.events, found.lost, found.repeated) == (2_000, 0, 0)
    assert found.connections > found.clients, "at each kill half of the clients had read since the last one"
    assert found.refused == 0, "clients that reconnect after a restart are let in"
