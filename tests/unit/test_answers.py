"""Answers of tasks, with Celery's own troubles in our words."""

import pytest
from celery import states
from celery.exceptions import TaskRevokedError
from support.servers import RedisServer

from manager.client.celery_app import sender_app
from manager.client.results import Answers
from manager.errors import CommandTimeoutError
from manager.fleet import FleetStore


# Celery's redis backend calls it.
@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")
def test_a_command_that_its_host_calls_expired_is_one_clear_error(redis_server: RedisServer) -> None:
    """As by an agent whose clock is ahead by years: Celery compares the sender's clock with the host's."""
    app = sender_app("redis+socket://" + redis_server.url.removeprefix("unix://"))
    store = FleetStore(redis_server.url)
    answers = Answers(app, store)
    app.backend.store_result("an-id", TaskRevokedError("expired"), states.REVOKED)
    [(task_id, answer)] = answers.collect({"an-id"}, 5)
    assert task_id == "an-id"
    assert isinstance(answer, CommandTimeoutError)
    assert "its clock is ahead" in str(answer)
    with pytest.raises(CommandTimeoutError, match="manager hosts"), answers.translated():
        app.AsyncResult("an-id").get(timeout=5)
    store.close()
