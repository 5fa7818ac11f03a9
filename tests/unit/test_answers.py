"""Task results, and the translation of Celery's errors."""

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
def test_a_command_that_its_host_dropped_as_expired_is_one_clear_error(redis_server: RedisServer) -> None:
    """For example by an agent whose clock is years ahead: Celery compares it with the sender's."""
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
def test_a_duration_is_shown_in_a_fitting_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
