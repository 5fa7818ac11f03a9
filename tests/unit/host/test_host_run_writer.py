"""The writer of ended runs: it loses none, and writes none twice without need."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.runs import run
from support.waiting import eventually

from manager.errors import FleetUnavailableError
from manager.fleet.run_types import Run
from manager.host.reporting.run_spool import RunSpool
from manager.host.reporting.run_writer import CONFIRM_SECONDS, RunWriter


class Stream:
    """A host's stream in memory; while `there` is False it raises as without Redis."""

    def __init__(self, *, there: bool = True) -> None:
        self.there = there
        #: Whether a write succeeds although its answer is lost.
        self.mute = False
        self.entries: dict[str, Run] = {}
        self.asked = 0
        self._next = 0

    def write(self, host: str, runs: Sequence[Run]) -> list[str]:
        self._require()
        assert {one.host for one in runs} == {host}
        made = []
        for one in runs:
            self._next += 1
            self.entries[f"{self._next}-0"] = one
            made.append(f"{self._next}-0")
        if self.mute:
            raise FleetUnavailableError("the answer is lost")
        return made

    def written(self, host: str) -> dict[str, str]:
        del host
        self._require()
        return {one.worker_id: entry_id for entry_id, one in self.entries.items()}

    def lost(self, host: str, entry_ids: Iterable[str]) -> list[str]:
        del host
        self._require()
        return [entry_id for entry_id in entry_ids if entry_id not in self.entries]

    def close(self) -> None:
        self.there = False

    def _require(self) -> None:
        self.asked += 1
        if not self.there:
            raise FleetUnavailableError("Redis does not answer")

    def ids(self) -> list[str]:
        return [one.worker_id for one in self.entries.values()]


class Agent:
    """The writer of one agent, with its own clock; the directory outlives it."""

    def __init__(self, directory: Path, stream: Stream, **more: Any) -> None:
        self.now = 0.0
        self.spool = RunSpool(directory / "runs", **more)
        self.writer = RunWriter(stream, "h", self.spool, lambda: self.now)


def files(directory: Path) -> list[str]:
    return sorted(path.stem for path in (directory / "runs").iterdir())


def test_a_run_is_written_at_once_and_its_file_stays_until_it_is_confirmed(tmp_path: Path) -> None:
    stream = Stream()
    agent = Agent(tmp_path, stream)
    agent.writer.note(run(1))
    agent.writer.tick()
    assert stream.ids() == ["w-1"]
    assert files(tmp_path) == ["w-1"]
    agent.now += CONFIRM_SECONDS - 1
    agent.writer.tick()
    assert files(tmp_path) == ["w-1"]
    agent.now += 1
    agent.writer.tick()
    assert files(tmp_path) == []
    assert stream.ids() == ["w-1"], "written once"


def test_runs_wait_on_disk_for_redis_and_for_the_next_agent(tmp_path: Path) -> None:
    stream = Stream(there=False)
    agent = Agent(tmp_path, stream)
    for n in (1, 2, 3):
        agent.writer.note(run(n))
    with pytest.raises(FleetUnavailableError):
        agent.writer.tick()
    assert files(tmp_path) == ["w-1", "w-2", "w-3"]

    after = Agent(tmp_path, stream)
    stream.there = True
    after.writer.tick()
    assert stream.ids() == ["w-1", "w-2", "w-3"]


def test_the_next_agent_does_not_write_again_what_is_there(tmp_path: Path) -> None:
    stream = Stream()
    first = Agent(tmp_path, stream)
    first.writer.note(run(1))
    first.writer.tick()

    second = Agent(tmp_path, stream)
    second.writer.note(run(2))
    second.writer.tick()
    assert stream.ids() == ["w-1", "w-2"]
    second.now += CONFIRM_SECONDS
    second.writer.tick()
    assert files(tmp_path) == []


def test_a_write_whose_answer_was_lost_is_not_repeated(tmp_path: Path) -> None:
    stream = Stream()
    agent = Agent(tmp_path, stream)
    stream.mute = True
    agent.writer.note(run(1))
    with pytest.raises(FleetUnavailableError):
        agent.writer.tick()
    stream.mute = False
    agent.writer.note(run(2))
    agent.writer.tick()
    assert stream.ids() == ["w-1", "w-2"]


def test_runs_that_redis_lost_after_a_crash_are_written_again(tmp_path: Path) -> None:
    stream = Stream()
    agent = Agent(tmp_path, stream)
    agent.writer.note(run(1))
    agent.writer.note(run(2))
    agent.writer.tick()
    del stream.entries["2-0"]
    agent.now += CONFIRM_SECONDS
    agent.writer.tick()
    assert stream.ids() == ["w-1", "w-2"]
    assert files(tmp_path) == ["w-2"]
    agent.now += CONFIRM_SECONDS
    agent.writer.tick()
    assert files(tmp_path) == []


def test_a_run_that_is_noted_twice_stays_as_it_was_first(tmp_path: Path) -> None:
    stream = Stream()
    agent = Agent(tmp_path, stream)
    agent.writer.note(run(1, reason="killed"))
    agent.writer.note(run(1, reason="found dead"))
    agent.writer.tick()
    assert [one.reason for one in stream.entries.values()] == ["killed"]


def test_waiting_runs_are_bounded_and_the_oldest_go_first(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(tmp_path, Stream(there=False), most=3)
    with caplog.at_level(logging.WARNING):
        for n in range(1, 6):
            agent.writer.note(run(n))
    assert files(tmp_path) == ["w-3", "w-4", "w-5"]
    assert "more than 3 wait" in caplog.text
    assert [one.worker_id for one in RunSpool(tmp_path / "runs", most=2).waiting()] == ["w-4", "w-5"]


def test_of_too_many_runs_those_that_redis_has_go_first_and_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stream = Stream()
    agent = Agent(tmp_path, stream, most=3)
    agent.writer.note(run(1))
    agent.writer.note(run(2))
    agent.writer.tick()
    stream.there = False
    with caplog.at_level(logging.WARNING):
        for n in (3, 4, 5):
            agent.writer.note(run(n))
    assert files(tmp_path) == ["w-3", "w-4", "w-5"]
    assert "runs_dropped" not in caplog.text
    assert "wait" not in caplog.text


def test_a_disk_that_refuses_a_run_does_not_lose_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stream = Stream()
    agent = Agent(tmp_path, stream)
    (tmp_path / "runs").write_text("not a directory")
    with caplog.at_level(logging.ERROR):
        agent.writer.note(run(1))
    assert "wait in memory" in caplog.text
    agent.writer.tick()
    assert stream.ids() == ["w-1"]


def test_files_that_are_not_runs_are_removed(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for name, text in {
        "w-1": run(1).model_dump_json(),
        "w-2": "{",
        "w-3": run(1).model_dump_json(),
        "w-4": "x" * 100_000,
    }.items():
        (tmp_path / "runs" / f"{name}.json").write_text(text)
    assert [one.worker_id for one in RunSpool(tmp_path / "runs").waiting()] == ["w-1"]
    assert files(tmp_path) == ["w-1"]


def test_a_renamed_host_writes_the_runs_of_its_earlier_name(tmp_path: Path) -> None:
    stream = Stream()
    RunSpool(tmp_path / "runs").add(run(1, host="old"))
    Agent(tmp_path, stream).writer.tick()
    assert [one.host for one in stream.entries.values()] == ["h"]


def test_the_thread_writes_and_the_end_does_not_wait_for_redis(tmp_path: Path) -> None:
    stream = Stream()
    writer = RunWriter(stream, "h", RunSpool(tmp_path / "runs"))
    writer.start()
    for n in range(1, 500):
        writer.note(run(n))
    eventually(lambda: len(stream.entries) == 499)
    stream.there = False
    writer.note(run(500))
    writer.close()
    assert len(stream.entries) == 499
    assert "w-500" in files(tmp_path)


def test_an_idle_writer_asks_redis_for_nothing(tmp_path: Path) -> None:
    stream = Stream()
    writer = RunWriter(stream, "h", RunSpool(tmp_path / "runs"))
    writer.start()
    writer.note(run(1))
    eventually(lambda: len(stream.entries) == 1)
    writer.close()
    assert stream.asked == 1
