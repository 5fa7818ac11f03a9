"""Problems: every error has a row, and no problem shows a secret."""

import inspect
import logging

import pytest
from support.api import Api, problem

from manager import errors
from manager.api.app import create_app
from manager.api.problems import PROBLEMS, errors_page, new_request_id, problem_of

CLASSES = [
    cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.ManagerError)
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_of_the_manager_has_a_row(cls: type[errors.ManagerError]) -> None:
    assert cls.code in PROBLEMS
    assert problem_of(cls("text")).code == cls.code


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_of_the_manager_is_answered_as_its_row(api: Api, cls: type[errors.ManagerError]) -> None:
    api.reader.error = cls("account-001: what happened")
    found = problem(api.client().get("/api/v1/fleet"), PROBLEMS[cls.code].status, cls.code)
    assert found["detail"] == "account-001: what happened"
    assert found["retryable"] is cls.retryable
    assert found["instance"] == "/api/v1/fleet"


def test_an_error_of_another_package_is_reported_as_its_base(api: Api) -> None:
    class OwnError(errors.NoWorkerError):
        code = "own"

    api.reader.error = OwnError("text")
    problem(api.client().get("/api/v1/fleet"), 409, "no_worker")


def test_an_unexpected_error_reports_only_its_request_id(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.reader.error = ZeroDivisionError("correct-horse")
    with caplog.at_level(logging.ERROR):
        response = api.client().get("/api/v1/fleet")
    found = problem(response, 500, "internal")
    assert "correct-horse" not in response.text
    assert "Traceback" not in response.text
    assert found["request_id"] in found["detail"]
    assert any(found["request_id"] in record.getMessage() for record in caplog.records)


def test_a_retryable_503_has_retry_after(api: Api) -> None:
    api.reader.error = errors.FleetUnavailableError("Redis is away")
    assert int(api.client().get("/api/v1/fleet").headers["retry-after"]) >= 1


def test_an_invalid_request_names_each_place_and_repeats_no_value(api: Api) -> None:
    response = api.client().get("/api/v1/accounts?limit=0&sort=secret-thing&unknown=1")
    found = problem(response, 422, "invalid_request")
    assert [one["where"] for one in found["errors"]] == [
        ["query", "limit"],
        ["query", "sort"],
        ["query", "unknown"],
    ]
    assert "secret-thing" not in response.text


@pytest.mark.parametrize("body", ["{", "[" * 100_000, '{"name": ', "\x00"])
def test_a_body_that_is_not_json_is_malformed(api: Api, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    problem(api.client().post("/api/v1/tokens", content=body, headers=headers), 400, "malformed_json")


def test_methods_and_addresses_that_do_not_exist(api: Api) -> None:
    client = api.client()
    problem(client.get("/api/v1/nothing"), 404, "not_found")
    assert client.delete("/api/v1/fleet").headers["allow"] == "GET"
    assert client.put("/api/v1/session").headers["allow"] == "DELETE, GET, POST"
    problem(client.delete("/api/v1/fleet"), 405, "method_not_allowed")


def test_the_page_of_errors_has_every_code(api: Api) -> None:
    response = api.anonymous().get("/docs/errors")
    assert response.status_code == 200
    assert response.text == errors_page()
    assert all(f'id="{code}"' in response.text for code in PROBLEMS)


def test_request_ids_are_unique_and_sort_by_time() -> None:
    ids = [new_request_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(one) == 26 for one in ids)
    assert [one[:10] for one in ids] == sorted(one[:10] for one in ids)


def test_every_operation_declares_its_problems(api: Api) -> None:
    document = create_app(api.parts).openapi()
    for operations in document["paths"].values():
        for operation in operations.values():
            assert {"401", "403", "404", "422", "429", "503"} <= set(operation["responses"])
    assert document["components"]["schemas"]["Problem"]["properties"]["code"]["enum"] == sorted(PROBLEMS)
