"""Hot reload beside commands, rests and a restart of the agent."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.pool_host import Host

from manager.config.models import RecoveryConfig
from manager.host.workers import config_changes
from manager.host.workers.config_changes import NotNowError
from manager.host.workers.config_difference import ConfigDifference
from manager.host.workers.kept_configs import KeptConfig
from manager.host.workers.slot import Rest
from manager.session.control import ControlError


@pytest.fixture
def host(short_dir: Path) -> Iterator[Host]:
    found = Host(short_dir)
    yield found
    found.close()


def test_a_live_recovery_outlasts_the_agent(host: Host) -> None:
    host.account("a", 1)
    worker_id = host.start().worker_id
    old = host.config_service.load_account_config("a")
    new = old.model_copy(update={"recovery": RecoveryConfig(max_restarts=0)})
    host.pool.config_changes.apply(ConfigDifference.of(KeptConfig.of(worker_id, old), new))
    recovery = host.pool.queries.recovery("a")
    assert recovery is not None
    assert recovery.max_restarts == 0
    host.pool.close()
    host.new_pool().adopt()
    recovery = host.pool.queries.recovery("a")
    assert recovery is not None
    assert recovery.max_restarts == 0


def test_a_change_delays_no_stop(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.account("a", 1)
    worker_id = host.start().worker_id
    old = host.config_service.load_account_config("a")
    unconfirmed = replace(KeptConfig.of(worker_id, old), confirmed=False)
    slot = host.pool.slots.get("a")
    asked = threading.Event()
    waited: list[bool] = []

    def busy(_address: str, _token: str, _request: Any, *, timeout: float) -> Any:
        asked.set()
        # The session is inside a call. Whether a stop reaches the worker meanwhile:
        waited.append(slot.exited.wait(timeout))
        raise ControlError("no answer")

    monkeypatch.setattr(config_changes, "ask", busy)

    def change() -> None:
        with pytest.raises(NotNowError):
            host.pool.config_changes.apply(ConfigDifference.of(unconfirmed, old))

    thread = threading.Thread(target=change)
    thread.start()
    assert asked.wait(5)
    host.pool.stop_worker("a")
    thread.join()
    assert waited == [True], "the stop waited until the change had given up"


def test_a_rest_records_the_generation_of_the_command_that_it_answers(host: Host) -> None:
    resting: dict[str, Any] = {"for": "schedule", "until": None, "text": "rests", "unmet": []}
    for generation in (5, 6):
        info = host.pool.rest_worker("a", lambda number=generation: Rest(resting, number, False))  # type: ignore[misc]
        assert info is not None
        assert info.placement.generation == generation


@pytest.mark.parametrize(
    "text",
    [
        "gateway: paper\nlogin: 1\nserver: S\npassword: hunter2: hunter2\n",
        "gateway: paper\nlogin: 1\nserver: S\npassword: 'hunter2\ncurrencies: []\n",
        "gateway: paper\nlogin: 1\nserver: S\npassword: x\nhunter2hunter2\n",
        "gateway: paper\nlogin: 1\nserver: S\npassword: [hunter2]\n",
        "gateway: paper\nlogin: 1\nserver: S\npasword: hunter2\n",
        "gateway: paper\nlogin: 1\nserver: S\npassword: x\nenvironment: {A: [hunter2]}\n",
    ],
)
def test_no_problem_of_a_file_shows_a_secret(host: Host, text: str) -> None:
    (host.config_service.accounts_dir / "a.yaml").write_text(text)
    with pytest.raises(Exception) as error:
        host.config_service.load_account_config("a")
    assert "hunter2" not in str(error.value)
