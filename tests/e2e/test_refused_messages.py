"""The sender of a rejected message gets a FAILURE that says what to do."""

import pytest
from support.fleet import Fleet, plain_celery

pytestmark = [pytest.mark.e2e, pytest.mark.long]

A = "account-001"


def test_the_sender_of_a_refused_message_is_reported_why(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    out = plain_celery(
        fleet,
        f"""
def tried(sender, **options):
    sent = sender.send_task("tasks.get_worker_info", args=["{A}"], **options)
    try:
        print("DONE", sent.get(timeout=20))
    except Exception as error:
        print(type(error).__name__, error)
    return sent.id

ids = [tried(app, compression="gzip"), tried(app, countdown=3600), tried(app, serializer="pickle")]
old = Celery(broker=app.conf.broker_url, backend=app.conf.result_backend)
old.conf.task_protocol = 1
ids.append(tried(old))
ids.append(tried(app, headers={{"stamps": 5}}))
print(ids)

# A rejected message with the id of a finished task does not change that task's result.
good = app.send_task("tasks.get_worker_info", args=["{A}"])
good.get(timeout=20)
app.send_task("tasks.get_worker_info", args=["{A}"], task_id=good.id, compression="gzip")
app.send_task("tasks.get_worker_info", args=["{A}"]).get(timeout=20)
print(app.backend.get_task_meta(good.id, cache=False)["status"])
""",
    )
    lines = out.splitlines()
    expected = (
        "without compression",
        "more than 5 minutes ahead",
        "json serializer",
        "task_protocol = 2",
        "stamps",
    )
    assert len(lines) == len(expected) + 2, out
    for line, reason in zip(lines, expected, strict=False):
        assert line.startswith("InvalidPayloadError tasks.get_worker_info was refused by the host agent: "), (
            out
        )
        assert reason in line, out
    assert lines[-1] == "SUCCESS"
    log = fleet.log("agent")
    for task_id in lines[-2].strip("[]").replace("'", "").split(", "):
        found = [
            line for line in log.splitlines() if f"task_id={task_id} task=tasks.get_worker_info " in line
        ]
        assert len(found) == 1, task_id
    # A message of protocol 1 does not name its sender; the others do.
    refused = [line for line in log.splitlines() if "action=message_refused" in line]
    assert len([line for line in refused if " origin=gen" in line]) == len(refused) - 1


def test_a_stop_wins_over_a_start_that_was_to_come_later(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    out = plain_celery(
        fleet,
        f"""
later = [
    app.send_task("tasks.start_worker", args=["{A}"], countdown=2),
    app.send_task("tasks.restart_worker", args=["{A}"], countdown=2),
    app.send_task("tasks.start_all_enabled_workers", countdown=2),
]
app.control.revoke(later[0].id)
try:
    app.send_task("tasks.stop_worker", args=["{A}"]).get(timeout=30)
except Exception as error:
    print(type(error).__name__)
for sent in later:
    try:
        print("DONE", sent.get(timeout=20))
    except Exception as error:
        print(type(error).__name__, error)
# A harmless task with the same delay: when it is done, the others would have run as well.
app.send_task("tasks.get_worker_info", args=["{A}"], countdown=2).get(timeout=20)
""",
    )
    lines = [line for line in out.splitlines() if line != "NoWorkerError"]
    assert len(lines) == 3, out
    assert all("a stop that is sent in the meantime must win" in line for line in lines), out
    fleet.await_ticks()
    assert fleet.status(A) in {None, "stopped"}
    assert fleet.stats()["sessions"] == 0


def test_revoke_changes_nothing_and_a_stop_ends_what_was_started(fleet: Fleet) -> None:
    fleet.add_accounts(1)
    out = plain_celery(
        fleet,
        f"""
sent = app.send_task("tasks.start_worker", args=["{A}"])
sent.revoke(terminate=True)
print(sent.get(timeout=30)["status"])
print(app.send_task("tasks.stop_worker", args=["{A}"]).get(timeout=30))
""",
    )
    assert out.split() == ["running", "True"]
    fleet.await_ticks()
    assert fleet.status(A) == "stopped"


def test_malformed_callbacks_end_no_agent(fleet: Fleet) -> None:
    """A host agent sends callbacks of its tasks; a malformed one fails only its own task."""
    fleet.add_accounts(1)
    out = plain_celery(
        fleet,
        f"""
import json
from kombu import Connection
parts = [5, "x", [5], {{"task": 5}}, {{"a": 1}}, [{{"task": "tasks.stop_all_workers", "options": 5}}]]
with Connection(app.conf.broker_url) as connection:
    producer = app.amqp.Producer(connection)
    for number, part in enumerate(parts):
        for name in ("callbacks", "errbacks", "chain", "chord"):
            task_id = f"forged-{{name}}-{{number}}"
            producer.publish(
                [["{A}"], {{}}, {{name: part}}],
                routing_key="celery", exchange="", serializer="json",
                headers={{"task": "tasks.get_worker_info", "id": task_id, "root_id": task_id, "group": "g"}},
            )
print(app.send_task("tasks.start_worker", args=["{A}"]).get(timeout=30)["status"])
""",
    )
    assert out.strip() == "running"
    assert fleet.agent is not None
    assert fleet.agent.poll() is None
