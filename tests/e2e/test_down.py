"""Ends of `manager up`: a closed terminal, `manager down`, and a killed `up`."""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.fleet import SIGKILL, SIGSTOP
from support.up import Machine
from support.waiting import eventually

from manager.system.processes import ProcessRef

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="Redis, terminals and signals of POSIX"),
]


SIGHUP: int = getattr(signal, "SIGHUP", signal.SIGTERM)


@pytest.fixture
def machine(short_dir: Path) -> Iterator[Machine]:
    found = Machine(short_dir)
    yield found
    found.close()


def record(machine: Machine, name: str) -> ProcessRef:
    ref = ProcessRef.from_dict(json.loads((machine.paths.root / name).read_text()))
    assert ref is not None
    return ref


def desired(machine: Machine) -> set[str]:
    remembered = json.loads((machine.paths.root / "desired.json").read_text())
    text = json.dumps(remembered)
    assert "account-001" in text
    return {state for state in ("running", "stopped") if f'"{state}"' in text}


def test_closing_the_terminal_stops_the_workers_cleanly_and_leaves_nothing(machine: Machine) -> None:
    terminal = machine.terminal("up", "--no-flower")
    terminal.wait_for("closing this terminal stops everything")
    terminal.wait_for("2 running. Ctrl-C, or closing this terminal, stops everything.")
    assert "manager up --detach" in terminal.text
    terminal.close()
    # SIGHUP arrives twice: from the shell and from the kernel.
    terminal.process.send_signal(SIGHUP)
    assert terminal.process.wait(timeout=40) == 0
    assert machine.processes() == []
    log = machine.paths.component_log("up").read_text()
    assert "stopped 2 workers, api, agent, venue, redis" in log
    assert "killing everything now" not in log
    assert "by force" not in log


def test_detached_it_returns_when_all_run_and_down_ends_it(machine: Machine) -> None:
    started = machine.run("up", "--detach", "--no-flower")
    assert started.returncode == 0, started.stderr
    pid = record(machine, "run/up.json").pid
    assert "2 running\n" in started.stdout
    assert f"running in the background (pid {pid}" in started.stdout
    assert "`manager down` stops everything." in started.stdout

    for again in (machine.run("up", "--detach"), machine.run("up")):
        assert again.returncode == 1
        assert f"`manager up` already runs here (pid {pid}" in again.stderr

    down = machine.run("down")
    assert (down.returncode, down.stderr) == (0, "")
    assert "stopped 2 workers, api, agent, venue, redis; data and logs are in" in down.stdout
    assert machine.processes() == []
    nothing = machine.run("down")
    assert nothing.returncode == 0
    assert "nothing to stop: `manager up` does not run here" in nothing.stdout


def test_a_detached_start_that_fails_says_why(machine: Machine) -> None:
    machine.environment["MANAGER_REDIS_URL"] = "redis://127.0.0.1:1/0"
    failed = machine.run("up", "--detach", "--no-flower")
    assert failed.returncode == 1
    assert "error: Redis at redis://127.0.0.1:1/0 cannot be used" in failed.stderr
    assert machine.processes() == []


def test_down_of_another_terminal_names_what_was_forced_and_two_of_them_kill_nothing(
    machine: Machine,
) -> None:
    terminal = machine.terminal("up", "--no-flower")
    terminal.wait_for("2 running")
    record(machine, "workers/account-001.json").signal(SIGSTOP)
    first, second = machine.terminal("down"), machine.terminal("down")
    eventually(
        lambda: (terminal.read(), first.read(), second.read()) and first.process.poll() is not None,
        within=60,
        what="`manager down` returns",
    )
    assert first.process.wait() == 0
    assert second.process.wait(timeout=20) == 0
    assert terminal.process.wait(timeout=20) == 0
    for text in (first.read(), second.read(), terminal.read()):
        assert "account-001 stopped by force" in text
        assert "account-002 stopped by force" not in text
        assert "killing everything now" not in text
        assert "stopped 2 workers" in text
    assert machine.processes() == []


def test_down_ends_what_a_killed_up_has_left_without_redis(machine: Machine) -> None:
    assert machine.run("up", "--detach", "--no-flower").returncode == 0
    record(machine, "run/up.json").kill()
    record(machine, "run/redis.json").kill()
    worker = record(machine, "workers/account-001.json")
    assert worker.alive()
    record(machine, "workers/account-002.json").signal(SIGSTOP)
    down = machine.run("down")
    assert down.returncode == 0, down.stderr
    assert "stopping what an earlier `manager up` left running" in down.stdout
    assert "account-002 stopped by force" in down.stdout
    assert "account-001 stopped by force" not in down.stdout
    assert machine.processes() == []
    # The stopped accounts stay stopped until the next start.
    assert desired(machine) == {"stopped"}


def test_down_leaves_the_workers_of_an_agent_that_up_did_not_start(machine: Machine) -> None:
    assert machine.run("up", "--detach", "--no-flower").returncode == 0
    # As with `manager host` under systemd while its agent restarts: there is no record of `up`.
    record(machine, "run/up.json").kill()
    record(machine, "run/agent.json").signal(SIGKILL)
    (machine.paths.run_dir / "agent.json").unlink()
    for name in ("redis", "venue"):
        record(machine, f"run/{name}.json").kill()
        (machine.paths.run_dir / f"{name}.json").unlink()
    workers = [record(machine, f"workers/account-00{number}.json") for number in (1, 2)]
    workers[0].signal(SIGSTOP)  # without its venue it would end by itself
    try:
        down = machine.run("down")
        assert down.returncode == 0
        assert "`manager stop-all --local` stops them" in down.stdout
        assert workers[0].alive()
    finally:
        workers[0].signal(SIGKILL)
