"""What a single account's routes say: placement, configuration, events."""

from pathlib import Path
from typing import Any

import pytest
from support.api import Api, problem
from support.servers import RedisServer

from manager.testing import fake_service

FILES = {
    "defaults.yaml": "gateway: paper\nserver: Paper-1\ndefault_risk:\n  risk_percent: 0.5\n",
    "accounts/good.yaml": "login: 5001\npassword: 'env:GOOD_PASSWORD'\ngroups: [fx]\n",
    "accounts/bad.yaml": "login: 5002\npassword: 'env:BAD_PASSWORD'\nno_such_key: 1\n",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "accounts").mkdir()
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def on_files(api_redis: RedisServer, files: Path) -> Api:
    return Api(api_redis, service=fake_service(files))


def get(api: Api, path: str, **options: Any) -> Any:
    response = api.client("read", **options).get(f"/api/v1{path}")
    assert response.status_code == 200, response.text
    return response.json()


def test_an_account_with_an_invalid_file_would_run_on_no_host(on_files: Api) -> None:
    report = get(on_files, "/accounts/bad/placement")
    assert (report["host"], report["hosts"]) == (None, {})
    assert "no_such_key: unknown key" in report["reason"]
    problem(on_files.client("read").get("/api/v1/accounts/none/placement"), 404, "account_not_found")
