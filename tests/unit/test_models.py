from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import SecretStr, ValidationError

from manager.models import BatchResult, ValidationResult, WorkerCreationRequest, WorkerInfo
from manager.states import WorkerHealth, WorkerLifecycleStatus


def info(**changes: object) -> WorkerInfo:
    return WorkerInfo.model_validate(
        {"worker_id": "w-1", "account_id": "a-1", "status": "running", **changes}
    )


def test_worker_info_is_json_both_ways() -> None:
    before = info(metadata={"pid": 12, "equity": "10000.50"}, started_at=datetime.now(UTC))
    assert WorkerInfo.from_dict(before.to_dict()) == before


def test_times_are_utc_whatever_zone_they_came_in() -> None:
    east = datetime(2026, 1, 2, 12, tzinfo=timezone(timedelta(hours=5)))
    assert info(created_at=east).created_at.utcoffset() == timedelta(0)
    assert info(created_at=east.isoformat()).to_dict()["created_at"] == "2026-01-02T07:00:00Z"


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(ValidationError):
        info(created_at=datetime(2026, 1, 2))  # noqa: DTZ001


def test_payloads_are_immutable() -> None:
    with pytest.raises(ValidationError):
        info().status = WorkerLifecycleStatus.FAILED  # type: ignore[misc]


def test_a_newer_hosts_field_is_ignored() -> None:
    assert info(some_field_of_next_year=1).account_id == "a-1"


def test_health_is_unknown_where_none_or_nonsense_was_reported() -> None:
    assert info().health is WorkerHealth.UNKNOWN
    assert info(metadata={"health": "splendid"}).health is WorkerHealth.UNKNOWN
    assert info(metadata={"health": "degraded"}).health is WorkerHealth.DEGRADED


def test_with_merges_metadata() -> None:
    assert info(metadata={"pid": 1}).with_(metadata={"host": "h"}).metadata == {"pid": 1, "host": "h"}


def test_creation_request_never_shows_its_password() -> None:
    request = WorkerCreationRequest(account_id="a", login=1, password=SecretStr("hunter2!"), server="S")
    assert request.to_dict()["password"] == "***"
    assert request.timeout == 60_000
    assert "hunter2!" not in f"{request!r}{request}{request.to_dict()}{request.model_dump_json()}"


def test_validation_result_says_what_it_has() -> None:
    result = ValidationResult(valid=False, account_id="a", errors=("e",))
    assert (result.has_errors, result.has_warnings) == (True, False)
    assert ValidationResult.from_dict(result.to_dict()) == result


def test_batch_result_counts_what_runs() -> None:
    result = BatchResult(done={"a": info()}, already={"b": info(account_id="b")}, failed={"c": "why"})
    assert set(result.running) == {"a", "b"}
    assert not result.ok
