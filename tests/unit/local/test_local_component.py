import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.waiting import eventually

from manager.errors import ComponentError
from manager.local.component import Component
from manager.local.interrupts import Interrupts
from manager.local.machine import Machine
from manager.settings import Settings
from manager.system.state_dir import StatePaths

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"

Make = Callable[[str], Component]


@pytest.fixture
def make(short_dir: Path) -> Iterator[Make]:
    paths = StatePaths(short_dir)
    paths.create()
    made: list[Component] = []

    def maker(script: str) -> Component:
        made.append(Component("thing", [sys.executable, "-c", script], {"PATH": ""}, paths))
        return made[-1]

    yield maker
    for component in made:
        component.stop(0)


def test_start_adopt_and_stop(make: Make) -> None:
    first = make(SLEEP)
    assert not first.adopt()
    first.start()
    assert first.alive
    again = make(SLEEP)
    assert again.adopt()
    assert again.process == first.process
    assert again.alive
    assert again.stop(5)
    assert not first.alive
    assert not make(SLEEP).adopt()
    assert again.stop(5), "idempotent"


def test_a_component_that_ignores_sigterm_is_killed(make: Make) -> None:
    component = make(STUBBORN)
    component.start()
    eventually(lambda: "up" in component.log_file.read_text())
    process = component.process
    assert component.stop(0.2)
    assert process is not None
    assert not process.alive()


def test_a_record_of_another_process_is_not_adopted(make: Make, short_dir: Path) -> None:
    (short_dir / "run" / "thing.json").write_text('{"pid": 1, "start_time": "boot:1"}')
    assert not make(SLEEP).adopt()
    (short_dir / "run" / "thing.json").write_text("junk")
    assert not make(SLEEP).adopt()


def test_the_exit_reason_has_code_and_last_line(make: Make) -> None:
    component = make("import sys; print('first', flush=True); sys.exit('no licence')")
    component.start()
    eventually(lambda: not component.alive)
    assert component.exit_reason() == f"thing ended with code 1: no licence (log: {component.log_file})"
    assert (component.log_file.stat().st_mode & 0o777) == 0o600


def test_a_missing_program_is_an_error(short_dir: Path) -> None:
    paths = StatePaths(short_dir)
    paths.create()
    with pytest.raises(ComponentError, match="thing cannot be started"):
        Component("thing", ["/no/such"], {}, paths).start()


def test_ctrl_c_in_the_terminal_does_not_reach_it(make: Make) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no process groups that a terminal's Ctrl-C goes to")
    component = make(SLEEP)
    component.start()
    assert component.process is not None
    assert os.getpgid(component.process.pid) != os.getpgid(0)


def test_record_directory_and_log_are_recreated(make: Make, short_dir: Path) -> None:
    component = make(SLEEP)
    component.start()
    shutil.rmtree(short_dir / "run")
    assert not make(SLEEP).adopt()
    component.restore_record()
    assert make(SLEEP).adopt(), "the next `up` adopts it"
    assert component.stop(5)
    for name in ("logs", "run"):
        shutil.rmtree(short_dir / name)
    component.start()
    assert component.alive


LISTENS = (
    "import socket, sys, time\ns = socket.socket(socket.AF_UNIX)\n"
    "s.bind(sys.argv[1]); s.listen()\ntime.sleep(600)"
)


def test_a_component_without_its_socket_is_restarted(short_dir: Path) -> None:
    paths = StatePaths(short_dir)
    paths.create()
    said: list[str] = []
    machine = Machine(Settings(state_dir=short_dir), paths, Interrupts(), said.append)
    argv = [sys.executable, "-c", LISTENS, str(paths.venue_socket)]
    component = Component("venue", argv, {"PATH": ""}, paths)
    component.start()
    machine._started.append(component)
    try:
        for _ in range(2):
            eventually(paths.venue_socket.exists)
            machine.supervise()
            process = component.process
            shutil.rmtree(paths.venue_dir)
            machine.supervise()
            assert said.pop() == "venue: its socket was removed; restarting it"
            assert component.process != process
            assert process is not None
            assert not process.alive()
            machine.supervise()
            assert said == [], "a new component needs a moment to create its socket"
    finally:
        component.stop(0)
