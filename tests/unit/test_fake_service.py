"""`manager.testing`: a service over in-memory workers, for tests of other services."""

import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.waiting import eventually

from manager.errors import (
    AlreadyThereError,
    HostUnavailableError,
    InvalidConfigError,
    NoHostFitsError,
    NoWorkerError,
    SessionHeldError,
    StartCancelledError,
    StartFailedError,
    StartTimeoutError,
)
from manager.placement.engine import HostFacts
from manager.placement.labels import Selection
from manager.pool.protocol import WorkerPool
from manager.service import WorkerManagerService
from manager.states import WorkerLifecycleStatus, may_move
from manager.testing import FakeClock, FakePool, fake_service

ROOT = Path(__file__).resolve().parents[2]


def fake_of(service: WorkerManagerService) -> FakePool:
    assert isinstance(service.worker_pool, FakePool)
    return service.worker_pool


def test_the_example_of_the_documentation_runs_without_redis_and_celery() -> None:
    text = (ROOT / "docs" / "howto" / "enqueue.md").read_text()
    (example,) = re.findall(r"<!-- example: fake -->\n```python\n(.*?)```", text, re.S)
    blocked = "import sys\nfor name in ('celery', 'kombu', 'redis'):\n    sys.modules[name] = None\n"
    tests = "\n".join(f"{name}()" for name in re.findall(r"^def (test_\w+)\(", example, re.M))
    assert tests.count("(") >= 2
    done = subprocess.run(
        [sys.executable, "-c", f"{blocked}{example}\n{tests}\nprint('ran')"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("ran\n", "")


def test_a_service_of_ids_of_files_and_of_keys(tmp_path: Path) -> None:
    assert fake_service(["a", "b"]).start_all().ok
    (tmp_path / "accounts").mkdir()
    (tmp_path / "accounts" / "c.yaml").write_text(
        "gateway: paper\nlogin: 1\nserver: S\npassword: env:NOT_SET_HERE\ncurrencies: [{symbol: EURUSD}]\n"
    )
    assert set(fake_service(tmp_path).start_all().done) == {"c"}
    service = fake_service(
        {
            "program": {
                "gateway": "command",
                "command": [sys.executable],
                "ready": {"after_seconds": 0},
                "currencies": [],
            },
            "misspelt": {"grups": ["desk"]},
        }
    )
    assert service.start_worker_from_config("program").metadata["gateway"] == "command"
    with pytest.raises(InvalidConfigError, match="did you mean 'groups'"):
        service.start_worker_from_config("misspelt")
    pool: WorkerPool = fake_of(service)
    assert pool.stoppable() == ["program"]


def test_every_change_of_a_state_is_an_event() -> None:
    service = fake_service(["a"])
    pool = fake_of(service)
    pool.fail_next("a", StartFailedError("no such venue"))
    pool.fail_next("a", StartFailedError("still none"))
    for text in ("no such venue", "still none"):
        with pytest.raises(StartFailedError, match=text):
            service.start_worker_from_config("a")
    service.start_worker_from_config("a")
    service.restart_worker("a")
    pool.end_worker("a", "killed by SIGKILL")
    assert service.get_worker_info("a").error == "killed by SIGKILL"  # type: ignore[union-attr]
    with pytest.raises(NoWorkerError):
        pool.end_worker("a", "again")
    assert service.stop_worker("a")
    states: dict[str, list[str]] = {}
    for event in pool.events:
        states.setdefault(event.worker_id, []).append(str(event.status))
    assert list(states.values()) == [
        ["starting", "failed"],
        ["starting", "failed"],
        ["starting", "running", "stopping", "stopped"],
        ["starting", "running", "failed", "stopped"],
    ]
    for found in pool.events:
        assert found.host == "fake-host"
    workers = {event.worker_id: event.status for event in reversed(pool.events)}
    for event in pool.events:
        before = workers[event.worker_id]
        assert event.status == before or may_move(
            WorkerLifecycleStatus(before), WorkerLifecycleStatus(event.status)
        )
        workers[event.worker_id] = event.status


def start(service: WorkerManagerService, account_id: str, answers: list[object]) -> threading.Thread:
    def run() -> None:
        try:
            answers.append(service.start_worker_from_config(account_id))
        except Exception as error:
            answers.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_slow_start_waits_for_the_clock_and_delays_no_other_account() -> None:
    clock = FakeClock()
    service = fake_service({"slow": {}, "quick": {}}, clock=clock)
    fake_of(service).start_takes("slow", 40)
    answers: list[object] = []
    thread = start(service, "slow", answers)
    eventually(lambda: getattr(service.get_worker_info("slow"), "status", "") == "starting")
    quick = service.start_worker_from_config("quick")
    assert quick.started_at == clock.now()
    clock.advance(39)
    assert service.get_worker_info("slow").status == "starting"  # type: ignore[union-attr]
    clock.advance(1)
    thread.join(30)
    (info,) = answers
    seconds = (info.started_at - info.created_at).total_seconds()  # type: ignore[attr-defined]
    assert seconds == 40


def test_a_timeout_or_a_stop_ends_a_start() -> None:
    clock = FakeClock()
    service = fake_service({"a": {"timeout": 5_000}}, clock=clock)
    fake_of(service).start_takes("a", 60)
    answers: list[object] = []
    thread = start(service, "a", answers)
    eventually(lambda: getattr(service.get_worker_info("a"), "status", "") == "starting")
    clock.advance(5)
    thread.join(30)
    assert [type(answer) for answer in answers] == [StartTimeoutError]

    answers.clear()
    thread = start(service, "a", answers)
    eventually(lambda: getattr(service.get_worker_info("a"), "status", "") == "starting")
    assert service.stop_worker("a") is True
    thread.join(30)
    assert [type(answer) for answer in answers] == [StartCancelledError]
    assert service.get_worker_info("a").status == "stopped"  # type: ignore[union-attr]


def test_a_batch_with_a_slow_start_starts_the_others_meanwhile() -> None:
    clock = FakeClock()
    service = fake_service(["a", "b", "c"], clock=clock)
    fake_of(service).start_takes("a", 10)
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(service.start_all()))
    thread.start()
    eventually(lambda: service.is_worker_running("b") and service.is_worker_running("c"))
    assert not service.is_worker_running("a")
    clock.advance(10)
    thread.join(30)
    assert sorted(results[0].done) == ["a", "b", "c"]  # type: ignore[attr-defined]


def test_two_accounts_of_one_login_have_one_session() -> None:
    service = fake_service({"a": {"login": 5001}, "b": {"login": "05001"}})
    service.start_worker_from_config("a")
    with pytest.raises(SessionHeldError, match="account a already has the session"):
        service.start_worker_from_config("b")
    service.stop_worker("a")
    service.start_worker_from_config("b")


def test_placement_moves_and_silent_hosts() -> None:
    hosts: list[str | HostFacts] = [HostFacts(name="london", labels={"mt5": ""}), "paris"]
    service = fake_service({"a": {"requires": ["mt5"]}, "b": {"host": "paris"}, "c": {}}, hosts=hosts)
    pool = fake_of(service)
    assert service.start_worker_from_config("a").metadata["host"] == "london"
    assert service.start_worker_from_config("b").metadata["host"] == "paris"
    with pytest.raises(NoHostFitsError, match="paris"):
        service.move_worker("a", "paris")
    assert service.is_worker_running("a")
    moved = service.move_worker("c", "london")  # never started before
    assert moved.metadata["host"] == "london"
    with pytest.raises(AlreadyThereError):
        service.move_worker("c", "london")
    again = service.move_worker("c", "paris")
    assert (again.metadata["host"], again.status) == ("paris", "running")
    assert again.worker_id != moved.worker_id

    pool.silence("paris")
    info = service.get_worker_info("c")
    assert info is not None
    assert (info.status, info.error) == ("unknown", "the host agent is silent")
    assert not service.is_worker_running("c")
    for command in (service.stop_worker, service.restart_worker, service.start_worker_from_config):
        with pytest.raises(HostUnavailableError, match="host paris is silent"):
            command("c")
    with pytest.raises(HostUnavailableError):
        service.move_worker("c", "london")
    forced = service.move_worker("c", "london", force=True)
    assert forced.metadata["host"] == "london"
    pool.wake("paris")
    assert service.is_worker_running("b")


def test_batches_select_by_groups_and_contain_every_account() -> None:
    service = fake_service({"a": {"groups": ["desk"]}, "b": {"enabled": False}, "c": {}})
    result = service.start_all(selection=Selection(("desk",)))
    assert set(result.done) == {"a"}
    rest = service.start_all()
    assert (set(rest.done), set(rest.already), set(rest.skipped)) == ({"c"}, {"a"}, {"b"})
    assert rest.batch_id
    assert [info.account_id for info in service.list_workers(Selection(("desk",)))] == ["a"]
    assert service.stop_all_workers(group="desk") == 1
    assert service.stop_all_workers() == 1
