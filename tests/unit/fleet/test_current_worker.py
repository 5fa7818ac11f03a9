"""Which of an account's records describes it."""

from datetime import timedelta

from manager.fleet.hosts import HostState
from manager.fleet.workers import WorkerRecord, current_worker
from manager.models import WorkerInfo, utc_now
from manager.states import WorkerLifecycleStatus


def record(host: str, **placement: object) -> WorkerRecord:
    """Return the record of an ended worker; later calls are no newer."""
    info = WorkerInfo(
        worker_id=f"w-{host}",
        account_id="a",
        status=WorkerLifecycleStatus.STOPPED,
        created_at=utc_now() - timedelta(days=3 if host == "new" else 1),
        metadata={"host": host, **placement},
    )
    return WorkerRecord(info, None, HostState(host, False, 60.0, {}))


def test_a_rest_on_the_new_host_wins_over_the_record_of_the_host_before() -> None:
    old = record("old", epoch=5, generation=10, resting={"text": "rests until Mon"})
    new = record("new", generation=12, resting={"text": "rests until Tue"})
    assert current_worker([old, new], 15.0).placement.host == "new"
    assert current_worker([new, old], 15.0).placement.host == "new"


def test_the_epoch_decides_between_records_of_one_command() -> None:
    records = [record("old", epoch=6, generation=10), record("new", epoch=5, generation=10)]
    assert current_worker(records, 15.0).placement.host == "old"
