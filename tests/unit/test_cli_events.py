"""`manager events`: pages, cursors, patterns of types, selections and following."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.configs import Directory
from support.servers import RedisServer

from manager.cli.main import cli
from manager.fleet import FleetStore
from manager.fleet.event_types import Notice
from manager.models import WorkerInfo
from manager.states import WorkerLifecycleStatus as S

A, B = "account-001", "account-002"


def info(account_id: str, status: S, **fields: Any) -> WorkerInfo:
    return WorkerInfo(worker_id=f"w-{account_id}", account_id=account_id, status=status, **fields)


@pytest.fixture
def store(
    redis_server: RedisServer, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FleetStore]:
    directory = Directory(short_dir / "config")
    for account_id, group in ((A, "fx"), (B, "metals")):
        directory.write(account_id, f"gateway: paper\ngroups: [{group}]\n")
    monkeypatch.setenv("MANAGER_REDIS_URL", redis_server.url)
    monkeypatch.setenv("MANAGER_CONFIG_DIR", str(directory.root))
    monkeypatch.setenv("MANAGER_STATE_DIR", str(short_dir / "state"))
    found = FleetStore(redis_server.url)
    found.record("london-1", [info(A, S.STARTING)], {})
    found.record("london-1", [info(A, S.RUNNING), info(B, S.FAILED, error="refused")], {})
    found.stream.add(Notice(type="host.live", host="london-1"))
    yield found
    found.close()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["events", *arguments])


def lines(*arguments: str) -> list[dict[str, Any]]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.output.splitlines()]


def test_the_cursor_of_a_page_is_its_last_line_and_continues_it(store: FleetStore) -> None:
    first = lines("--after", "0", "-n", "2")
    assert [one.get("type") for one in first] == ["worker.starting", "worker.running", None]
    assert set(first[-1]) == {"cursor"}
    second = lines("--after", first[-1]["cursor"])
    assert [one.get("type") for one in second] == ["worker.failed", "host.live", None]
    assert lines("--after", second[-1]["cursor"]) == [second[-1]]
    store.stream.add(Notice(type="host.lost", host="london-1"))
    assert [one.get("type") for one in lines("--after", second[-1]["cursor"])] == ["host.lost", None]


def test_the_newest_events_come_with_the_cursor_of_now(store: FleetStore) -> None:
    found = lines("-n", "1")
    assert [one.get("type") for one in found] == ["host.live", None]
    assert lines("--after", found[-1]["cursor"]) == [found[-1]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--type", "worker.*"), ["worker.starting", "worker.running", "worker.failed"]),
        (("--type", "worker.failed", "--type", "host.*"), ["worker.failed", "host.live"]),
        (("--group", "fx"), ["worker.starting", "worker.running"]),
        (("--account", B), ["worker.failed"]),
        (("--type", "worker.r*", "--group", "fx"), ["worker.running"]),
        (("--type", "batch.*"), []),
    ],
)
@pytest.mark.parametrize("after", [(), ("--after", "0")])
def test_types_and_groups_select(
    store: FleetStore, after: tuple[str, ...], options: tuple[str, ...], expected: list[str]
) -> None:
    *events, cursor = lines(*after, *options)
    assert [one["type"] for one in events] == expected
    assert set(cursor) == {"cursor"}


def test_a_filter_counts_matching_events_only(store: FleetStore) -> None:
    *events, _ = lines("--type", "worker.*", "-n", "1")
    assert [one["type"] for one in events] == ["worker.failed"]


def test_people_read_one_line_for_each_event(store: FleetStore) -> None:
    shown = run("--account", B).output.splitlines()
    assert len(shown) == 1
    assert shown[0].endswith(f"UTC london-1 {B} failed: refused")


@pytest.mark.parametrize("cursor", ["nonsense", "zzzzzzzz:1-0"])
def test_a_bad_cursor_is_an_error(store: FleetStore, cursor: str) -> None:
    result = run("--after", cursor)
    assert result.exit_code != 0
    assert "is not a cursor" in str(result.exception)


def test_a_cursor_of_another_stream_is_gone(store: FleetStore) -> None:
    result = run("--after", "00000000:1-0")
    assert result.exit_code != 0
    assert "the event stream was replaced" in str(result.exception)


def test_an_account_and_a_group_exclude_each_other(store: FleetStore) -> None:
    result = run("--account", A, "--group", "fx")
    assert result.exit_code == 2
    assert "not both" in result.output


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_following_continues_after_the_page_and_filters(store: FleetStore) -> None:
    command = [sys.executable, "-m", "manager.cli", "events", "-f", "--json", "--after", "0"]
    with subprocess.Popen(
        [*command, "--type", "host.*"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["type"] == "host.live"
            store.record("london-1", [info(A, S.STOPPED)], {})
            store.stream.add(Notice(type="host.draining", host="london-1"))
            assert json.loads(process.stdout.readline())["type"] == "host.draining"
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == ""
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
