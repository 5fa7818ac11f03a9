"""Checks of task messages, which only an agent's consumer applies."""

import base64
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import celery
import pytest

from manager import wire
from tasks.messages import MALFORMED_ERRORS, check_parts, checked_message, sender_of


def raw(**headers: Any) -> dict[str, Any]:
    return {
        "body": "",
        "headers": {"task": wire.STOP_WORKER, "id": "an-id", "origin": "bot@desk"} | headers,
        "properties": {"delivery_tag": "theirs", "correlation_id": "an-id"},
    }


def protocol_1(task_id: object = "an-id") -> dict[str, Any]:
    body = {"task": wire.START_WORKER, "id": task_id, "args": ["a"], "kwargs": {}}
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "headers": {},
        "properties": {"body_encoding": "base64"},
    }


def in_minutes(minutes: float) -> str:
    return (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()


def test_a_message_keeps_its_headers_and_loses_its_delivery_tag() -> None:
    checked = checked_message(raw(eta=in_minutes(1)))
    assert checked["headers"]["id"] == "an-id"
    assert checked["properties"]["delivery_tag"] != "theirs"


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (raw(compression="application/x-gzip"), "without compression"),
        (raw(eta=in_minutes(10)), "more than 5 minutes ahead"),
        (raw(eta="soon"), "not an ISO 8601 time"),
        (raw(retries="x"), "header retries"),
        (raw(timelimit=5), "header timelimit"),
        (protocol_1(), "task_protocol = 2"),
        *(
            (raw(task=task, eta=in_minutes(minutes)), "a stop that is sent in the meantime must win")
            for task in (wire.START_WORKER, wire.RESTART_WORKER, wire.START_ALL, wire.RESTART_ALL)
            for minutes in (-1, 0.1)
        ),
    ],
)
def test_a_refusal_says_what_is_refused_and_whose_message_it_is(message: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        checked_message(message)
    assert sender_of(message).task_id == "an-id"
    assert sender_of(message).task in {wire.STOP_WORKER, *wire_starts()}


def wire_starts() -> set[str]:
    return {wire.START_WORKER, wire.RESTART_WORKER, wire.START_ALL, wire.RESTART_ALL}


@pytest.mark.parametrize(
    "message",
    [
        None,
        5,
        [],
        {},
        {"headers": None},
        {"headers": {"id": 5}, "properties": 5},
        protocol_1([1]),
        protocol_1(None),
    ],
)
def test_what_has_no_readable_id_is_refused_without_one(message: Any) -> None:
    assert sender_of(message).task_id == ""


def test_an_id_that_could_not_be_part_of_a_key_or_a_log_line_is_not_used() -> None:
    assert sender_of(raw(id="x" * 256) | {"properties": {}}).task_id == ""
    assert sender_of(raw(id="a\x1b[2J") | {"properties": {}}).task_id == ""
    assert "\x1b" not in sender_of(raw(task="a\x1b[2J", origin="\x1b[2J")).origin
    assert not sender_of(raw(ignore_result=True)).expects_result


@pytest.mark.parametrize(
    "embedded",
    [
        *(5, [5], "x", [], 0, {"other": 1}, {"chord": 5}, {"chord": [1]}, {"chain": 5}, {"chain": ["x"]}),
        *({"callbacks": {}}, {"callbacks": [{"task": 5}]}, {"errbacks": [{"task": "a", "options": 5}]}),
    ],
)
def test_malformed_callbacks_are_refused(embedded: Any) -> None:
    with pytest.raises(MALFORMED_ERRORS):
        check_parts([[], {}, embedded])


def test_the_callbacks_that_celery_sends_pass() -> None:
    one = dict(celery.Celery().signature("desk.report", args=["a"], queue="callback.desk"))
    for embedded in (None, {}, {"callbacks": [one], "errbacks": [one], "chain": [one], "chord": one}):
        check_parts(json.loads(json.dumps([["a"], {}, embedded])))


def test_a_process_that_imports_tasks_keeps_celerys_own_behaviour() -> None:
    """Every other Celery app in the process is unchanged too."""
    script = (
        "from kombu.transport import redis\n"
        "from celery.worker.control import Panel\n"
        "from manager.fleet.celery_redis import FleetTransport\n"
        "before = redis.Transport.Channel, set(Panel.data)\n"
        "import tasks\n"
        "tasks.app.finalize()\n"
        "assert (redis.Transport.Channel, set(Panel.data)) == before\n"
        "assert tasks.app.connection_for_read().get_transport_cls() is FleetTransport\n"
        "assert 'celery.chord_unlock' in tasks.app.tasks\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_only_the_connection_that_an_agent_consumes_from_is_checked() -> None:
    script = (
        "from celery import Celery\n"
        "from kombu.transport import redis\n"
        "from celery.worker.control import Panel\n"
        "import tasks\n"
        "from tasks.consumer import CheckedConsumer\n"
        "from manager.fleet.celery_redis import FleetTransport\n"
        "other = Celery(broker='redis://127.0.0.1:1/0')\n"
        "class Unconnected(CheckedConsumer):\n"
        "    def ensure_connected(self, connection):\n"
        "        return connection\n"
        "class Controller:\n"
        "    use_eventloop = False\n"
        "consumer = Unconnected(None, app=tasks.app, controller=Controller())\n"
        "mine = consumer.connection_for_read()\n"
        "for _ in range(2):\n"
        "    assert mine.get_transport_cls().Channel.__name__ == 'CheckedChannel'\n"
        "    assert issubclass(mine.get_transport_cls(), redis.Transport)\n"
        "    mine.switch('redis://127.0.0.1:1/0')\n"
        "assert tasks.app.connection_for_write().get_transport_cls() is FleetTransport\n"
        "assert other.connection_for_read().get_transport_cls() is redis.Transport\n"
        "assert redis.Transport.Channel is redis.Channel\n"
        "assert 'shutdown' not in Panel.data and 'ping' in Panel.data\n"
        "assert not [name for name in tasks.app.tasks if name.startswith('celery.')]\n"
        "assert 'celery.chord_unlock' in other.tasks\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
