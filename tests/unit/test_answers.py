"""Answers of tasks, with Celery's own troubles in our words."""

import time
from typing import Any

import pytest
from celery import states
from celery.exceptions import TaskRevokedError
from support.servers import RedisServer

from manager.client.celery_app import sender_app
from manager.client.results import TaskResults, duration
from manager.errors import CommandTimeoutError
from manager.fleet import FleetStore


# Celery's redis backend calls it.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_a_command_that_its_host_calls_expired_is_one_clear_error(redis_server: RedisServer) -> None:
    """As by an agent whose clock is ahead by years: Celery compares the sender's clock with the host's."""
    app = sender_app("redis+socket://" + redis_server.url.removeprefix("unix://"))
    store = FleetStore(redis_server.url)
    answers = TaskResults(app, store)
    app.backend.store_result("an-id", TaskRevokedError("expired"), states.REVOKED)
    [(task_id, answer)] = answers.collect({"an-id"}, 5)
    assert task_id == "an-id"
    assert isinstance(answer, CommandTimeoutError)
    assert "its clock is ahead" in str(answer)
    with pytest.raises(CommandTimeoutError, match="manager hosts"), answers.translated():
        app.AsyncResult("an-id").get(timeout=5)
    store.report_agent("slow", {"time": time.time() - 9_000})
    store.report_agent("london", {"time": time.time() + 13 * 31_557_600 + 5_000_000})
    for answer in (next(answers.collect({"an-id"}, 5))[1], _raised(answers, app)):
        assert isinstance(answer, CommandTimeoutError)
        assert "host london's clock is 13.2 years ahead of Redis's" in str(answer)
        assert "slow" not in str(answer)
        assert len(str(answer).splitlines()) == 1
    store.close()


def _raised(answers: TaskResults, app: Any) -> BaseException:
    with pytest.raises(CommandTimeoutError) as found, answers.translated():
        app.AsyncResult("an-id").get(timeout=5)
    return found.value


@pytest.mark.parametrize(
    ("seconds", "text"), [(70, "70 s"), (7_200, "2.0 h"), (7_100, "118.3 min"), (500_000, "5.8 days")]
)
def test_a_span_of_time_is_told_in_a_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
